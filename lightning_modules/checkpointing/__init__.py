"""Checkpoints of a run: folders written whole or not at all, read without unpickling code, locked by one run.

Here: formats, reading, optimizer and random states. Not here: when checkpoints are written
(:mod:`lightning_modules.callbacks.run_checkpoints`), nor folders for `transformers` (:mod:`lightning_modules.export`).
"""
