"""Rollouts: sampled solutions of benchmark questions, graded, checked, and exchanged with other tools.

Not here: benchmarks' questions and rules (:mod:`datamodules.benchmarks`), Best-of-N items
(:mod:`datamodules.best_of_n`).
"""
