"""Data of the recipe: LightningDataModules, and readers, encoders and collators behind them.

Here: files to batches, and grading of answers. Not here: models (:mod:`lightning_modules`).
"""
