"""Scoring N candidates of a question over one shared prefix: cache, positions, attention, memory budget.

Not here: the forward of training (:mod:`lightning_modules.model.packed_forward`), metrics on scores.
"""
