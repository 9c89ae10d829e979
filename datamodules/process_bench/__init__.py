"""VisualProcessBench: solutions whose steps people have judged, and the released totals.

Not here: its metrics (:mod:`lightning_modules.metrics.step_report`).
"""
