"""Data of a policy: prompts to answer and demonstrations to learn from.

Not here: the data module itself (:mod:`datamodules.prompts_datamodule`), sampled solutions
(:mod:`datamodules.rollouts`).
"""
