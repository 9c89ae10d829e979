"""Checkpoints of a run: folders that are complete or absent, read without executing code, locked by one run.

Here: the format, reading, optimizer states, which checkpoints of a run are kept, the lock. Not here: when checkpoints
are written (:mod:`lightning_modules.callbacks.run_checkpoints`), folders for `transformers`
(:mod:`lightning_modules.export`).
"""
