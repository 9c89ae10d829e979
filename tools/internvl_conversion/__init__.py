"""Original-layout InternVL checkpoints into the layout of `transformers`, for :mod:`tools.convert_internvl`."""
