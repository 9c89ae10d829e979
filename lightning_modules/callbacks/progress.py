"""Progress of a run as lines in a log file. In a terminal the command shows Lightning's bar instead."""

from __future__ import annotations

import math
import sys
import time
from datetime import datetime, timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

_BATCHES = {
    "sanity_check": "num_sanity_val_batches",
    "validate": "num_val_batches",
    "test": "num_test_batches",
    "predict": "num_predict_batches",
}


class RunProgress(ProgressBar):
    """Writes a line on rank zero: at the first step, every ``seconds_between_lines``, and at the end.

    For example::

        2026-11-25 09:28:48 | epoch 0, step 120 of 3125 (3.8 %) | 4.21 s a step | 3:31:02 to the end | train/loss 0.532

    The time of an optimizer step is the mean since the last line. It includes waiting for data, but not evaluations.
    The time to the end is that of the remaining steps at the mean speed of the run so far, evaluations included.

    Args:
        seconds_between_lines: Least number of seconds between two lines.
        refresh_rate: Refresh rate of Lightning's bar in a terminal, in batches; 0 shows neither a bar nor lines.
        as_lines: Write lines (True) or show Lightning's bar (False). By default lines, unless the standard output is a
            terminal.

    Raises:
        ValueError: If ``seconds_between_lines`` or ``refresh_rate`` is negative.
    """

    def __init__(
        self, seconds_between_lines: float = 60.0, refresh_rate: int = 1, as_lines: bool | None = None
    ) -> None:
        super().__init__()
        if not seconds_between_lines >= 0:
            raise ValueError(f"seconds_between_lines must be at least 0, got {seconds_between_lines}")
        if refresh_rate < 0:
            raise ValueError(f"refresh_rate must be at least 0, got {refresh_rate}")
        self.seconds_between_lines = seconds_between_lines
        self.refresh_rate = refresh_rate
        self.as_lines = not sys.stdout.isatty() if as_lines is None else as_lines
        self._is_shown = refresh_rate > 0
        self._last_line = -math.inf
        self._evaluation_began, self._evaluated_batches = 0.0, 0

    def disable(self) -> None:
        """Write nothing from now on; Lightning calls it on ranks other than zero."""
        self._is_shown = False

    def enable(self) -> None:
        """Write again."""
        self._is_shown = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = self._window_began = time.perf_counter()
        self._first_step = self._window_step = trainer.global_step
        self._last_line = -math.inf

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write a line if an optimizer step was made and a line is due."""
        now, step, last = time.perf_counter(), trainer.global_step, trainer.estimated_stepping_batches
        if step == self._window_step or not self._is_due(now):
            return
        of_a_step = (now - self._window_began) / (step - self._window_step)
        left = (now - self._began) / (step - self._first_step) * (last - step)
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items())
        parts = [
            f"epoch {trainer.current_epoch}, {_steps(trainer)}",
            f"{of_a_step:.3g} s a step",
            f"{_duration(left)} to the end",
        ]
        self._write(now, *parts, *([metrics] if metrics else []))
        self._window_began, self._window_step = now, step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last line."""
        if self._is_shown:
            self._write(time.perf_counter(), _steps(trainer), "training has ended")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an evaluation or of `predict`."""
        self._evaluation_began, self._evaluated_batches = time.perf_counter(), 0

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Count the batch, and write a line if it is due."""
        self._evaluated_batches += 1
        now, done = time.perf_counter(), self._evaluated_batches
        if self._is_due(now) and trainer.state.stage is not None:
            total = sum(getattr(trainer, _BATCHES[trainer.state.stage.value]))
            each = (now - self._evaluation_began) / done
            left = f"{_duration((total - done) * each)} to its end"
            self._write(now, f"{trainer.state.stage.value}, batch {done} of {total:g}", f"{each:.3g} s a batch", left)

    on_test_start = on_predict_start = on_validation_start
    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time of the evaluation from that of the next optimizer step."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._window_began += time.perf_counter() - self._evaluation_began

    def _is_due(self, now: float) -> bool:
        return self._is_shown and now - self._last_line >= self.seconds_between_lines

    def _write(self, now: float, *parts: str) -> None:
        self._last_line = now
        print(f"{datetime.now():%Y-%m-%d %H:%M:%S}", *parts, sep=" | ", flush=True)  # noqa: T201 - this is its purpose


def _steps(trainer: Trainer) -> str:
    steps, total = trainer.global_step, trainer.estimated_stepping_batches
    of = "" if math.isinf(total) else f" of {total:.0f} ({100 * steps / max(1, total):.1f} %)"
    return f"step {steps}{of}"


def _duration(seconds: float) -> str:
    return "an unknown time" if math.isinf(seconds) else str(timedelta(seconds=round(seconds)))
