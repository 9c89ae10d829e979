"""Programs around the recipe: annotations, rollouts, reports, conversions."""

from lightning_modules.configuration.interrupted_imports import is_a_command, stop_in_one_line

if is_a_command():
    stop_in_one_line()
