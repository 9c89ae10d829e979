"""The callbacks that every run of the `visualprm` command has unless it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser

from lightning_modules.callbacks.case_studies import CaseStudies
from lightning_modules.callbacks.chart_layout import ChartLayout
from lightning_modules.callbacks.failure_log import FailureLog
from lightning_modules.callbacks.gradients import GradientMonitor
from lightning_modules.callbacks.hyperparameters import Hyperparameters
from lightning_modules.callbacks.memory import MemoryMonitor
from lightning_modules.callbacks.progress import RunProgress

KINDS: dict[str, type[Callback]] = {
    "gradient_monitor": GradientMonitor,
    "memory_monitor": MemoryMonitor,
    "failure_log": FailureLog,
    "progress": RunProgress,
    "case_studies": CaseStudies,
    "chart_layout": ChartLayout,
    "hyperparameters": Hyperparameters,
}
"""Name of the settings of each: ``--gradient_monitor.stop_on_non_finite=false``."""


def add_default_callbacks(parser: LightningArgumentParser) -> None:
    """Add the settings of the default callbacks to a command, and ``--monitoring``, which switches them all off."""
    parser.add_argument(
        "--monitoring", type=bool, default=True, help=f"Have the default callbacks {', '.join(KINDS)} in this run."
    )
    for name, kind in KINDS.items():
        parser.add_lightning_class_args(kind, name)


def chosen_callbacks(callbacks: Sequence[Callback], trainer: Mapping[str, Any], monitoring: bool) -> list[Callback]:
    """The callbacks of a command without the default ones that are not wanted.

    Args:
        callbacks: All that the command has settings for.
        trainer: Settings of the trainer; a callback of the same kind in its ``callbacks`` (for progress, of any kind of
            progress bar) takes the place of the default, and ``enable_progress_bar`` counts.
        monitoring: Whether any default is wanted.

    Returns:
        Those, with Lightning's bar in place of :class:`RunProgress` in a terminal.
    """
    given = trainer.get("callbacks") or []
    given = given if isinstance(given, list) else [given]
    kinds = tuple(KINDS.values())

    def is_wanted(callback: Callback) -> bool:
        if not isinstance(callback, kinds):
            return True
        is_progress = isinstance(callback, RunProgress)
        kind = ProgressBar if is_progress else type(callback)
        is_shown = not is_progress or trainer.get("enable_progress_bar") is not False
        return monitoring and is_shown and not any(isinstance(other, kind) for other in given)

    return [
        TQDMProgressBar(each.refresh_rate) if isinstance(each, RunProgress) and not each.as_lines else each
        for each in callbacks
        if is_wanted(each)
    ]
