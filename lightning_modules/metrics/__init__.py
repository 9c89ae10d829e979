"""Metrics of step scores and of picked responses: intervals, tables and figures.

Here: functions of scores and labels. Not here: collecting scores in a run (:mod:`lightning_modules.callbacks`).
"""
