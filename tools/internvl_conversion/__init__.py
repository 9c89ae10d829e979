"""Conversion of original-layout InternVL checkpoints to `transformers`, for :mod:`tools.convert_internvl`."""
