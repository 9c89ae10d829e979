"""Trained models as ordinary `transformers` folders with a model card.

Here: writing a folder, its card, and getting a module back from its run's checkpoint. Not here: the checkpoints that a
run resumes from (:mod:`lightning_modules.checkpointing`).
"""
