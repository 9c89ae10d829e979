"""Data of a policy: prompts to answer and demonstrations to learn from.

Here: the prompt, readers that make prompts of rows and benchmarks, chats, and batches. Not here: the data module itself
(:mod:`datamodules.prompts_datamodule`), sampled solutions (:mod:`datamodules.rollouts`).
"""
