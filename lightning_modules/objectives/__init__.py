"""What a reward model learns: targets and losses of steps, the language-model loss, validation of step scores.

Not here: metrics on benchmarks (:mod:`lightning_modules.metrics`), optimizers (:mod:`lightning_modules.training`).
"""
