"""Rewards of a process reward model for libraries of reinforcement learning: TRL and verl.

Not here: the learning itself, and the scores, which are :class:`lightning_modules.process_reward.ProcessRewardModel`'s.
"""
