"""From encoded conversations to batches: collating, packing, orders of training and evaluation, lengths, shards.

Here: which samples share a batch, and in which order. Not here: the text of a conversation
(:mod:`datamodules.conversation`), reading rows (:mod:`datamodules.supervision`).
"""
