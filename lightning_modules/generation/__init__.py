"""Engines that sample text from a policy: their interface, the one in this process, and random draws keyed by sample.

Not here: what is sampled and why (:mod:`lightning_modules.policy`, :mod:`lightning_modules.annotation`).
"""
