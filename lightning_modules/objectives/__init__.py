"""What a reward model learns: table of objectives, step loss, language-model loss, validation of step scores.

Not here: metrics on benchmarks (:mod:`lightning_modules.metrics`), optimizers (:mod:`lightning_modules.training`).
"""
