"""Engines that sample text from a policy, and random draws keyed by sample.

Not here: what is sampled and why (:mod:`lightning_modules.policy`, :mod:`lightning_modules.annotation`).
"""
