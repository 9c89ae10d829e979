"""Search for a solution step by step, led by a reward model: trees, and ways to choose what is expanded next.

Not here: sampling (:mod:`lightning_modules.generation`), scores (:mod:`lightning_modules.scoring`), and the module that
brings both together (:mod:`lightning_modules.step_search`).
"""
