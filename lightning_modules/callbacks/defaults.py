"""The callbacks that every run of the `visualprm` command has unless it says otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar

from lightning_modules.callbacks.failure_log import FailureLog
from lightning_modules.callbacks.gradients import GradientMonitor
from lightning_modules.callbacks.memory import MemoryMonitor
from lightning_modules.callbacks.progress import RunProgress


def default_callbacks(given: Sequence[Callback], enable_progress_bar: bool = True) -> list[Callback]:
    """The default ones of which none is there.

    Args:
        given: Callbacks of the configuration; one of a kind replaces the default of that kind.
        enable_progress_bar: As of the trainer.
    """
    added: list[Callback] = [
        kind()
        for kind in (GradientMonitor, MemoryMonitor, FailureLog)
        if not any(isinstance(callback, kind) for callback in given)
    ]
    if enable_progress_bar and not any(isinstance(callback, ProgressBar) for callback in given):
        added.append(RunProgress())
    return added
