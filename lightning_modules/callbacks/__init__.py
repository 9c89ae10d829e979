"""Lightning callbacks: evaluation reports, prediction files, checkpoints, monitoring.

Here: when something happens in a run. Not here: how a metric is computed (:mod:`lightning_modules.metrics`) or a
checkpoint written (:mod:`lightning_modules.checkpointing`).
"""
