"""Training rows that are also in a benchmark: by the words of the question, and by the look of its pictures.

Not here: reading rows (:mod:`datamodules.supervision`) and benchmarks (:mod:`datamodules.benchmarks`), the command
(:mod:`tools.decontaminate`).
"""
