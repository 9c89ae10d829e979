"""LightningModules of the recipe and what they are built from.

Here: policy, annotator and reward model, the command line, the protocol of scoring. Everything that has several files
has a folder. Not here: reading and arranging data (:mod:`datamodules`), programs that are no training runs
(:mod:`tools`).
"""
