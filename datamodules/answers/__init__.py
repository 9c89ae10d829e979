"""Final answers: cut out of a response, and compared with each other.

Here: what holds for any benchmark. Not here: a benchmark's own rules (:mod:`datamodules.benchmarks`).
"""
