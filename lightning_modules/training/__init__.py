"""What policy and reward model share in training: optimizer and schedule, the mean over the global batch, the record.

Not here: losses (:mod:`lightning_modules.objectives`), checkpoints (:mod:`lightning_modules.checkpointing`).
"""
