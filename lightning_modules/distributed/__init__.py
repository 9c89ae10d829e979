"""Models and results over several ranks: FSDP2, loading shards, gathering rows, gradients, logging.

Here: code that depends on ranks and devices. Not here: which rows a rank reads (:mod:`datamodules.batching`).
"""
