"""Lightning callbacks: evaluation reports, prediction files, checkpoints, monitoring.

Here: when something happens in a run. Reports on validation and test start from :mod:`.evaluation`; what `predict`
writes is in `prediction_writer`, `prediction_journal` and what these import. Not here: how a metric is computed
(:mod:`lightning_modules.metrics`) or a checkpoint written (:mod:`lightning_modules.checkpointing`).
"""
