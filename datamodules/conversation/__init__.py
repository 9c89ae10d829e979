"""The conversation in which steps are judged: steps, labels, messages, chat layout, encoder, candidates.

Here: the protocol of the paper as texts and token ids. Not here: files of rows (:mod:`datamodules.supervision`),
batches (:mod:`datamodules.batching`).
"""
