"""Progress of a run: a bar in a terminal, sparse lines in a log file; on rank zero only."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from datetime import datetime, timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer, TQDMProgressBar

RECENT = 50
"""Over how many optimizer steps the time of a step is averaged."""


class RunProgress(TQDMProgressBar):
    """Shows the time of an optimizer step and the time to the end of the run, with the metrics of the progress bar.

    In a terminal they stand behind Lightning's bars. Anywhere else (a file, SLURM's output) bars are pages of
    unreadable text; there a line is written at the first step, then at most every ``seconds_between_lines``, and at the
    end::

        2026-11-25 09:28:48 | epoch 0, step 120 of 3125 (3.8 %) | 4.21 s a step | 3:31:02 to the end | train/loss 0.532

    The time of a step is the mean of the last :data:`RECENT`, waiting for data included, evaluation not. The time to
    the end is that of the steps left and of the evaluations left, as long as the last one (none are counted before the
    first has ended), or what is left of ``trainer.max_time``, if that is less.

    Args:
        seconds_between_lines: How sparse lines are.
        refresh_rate: Of bars, in batches; 0 shows neither bars nor lines.
        as_lines: Write lines; by default where the standard output is no terminal.
    """

    def __init__(
        self, seconds_between_lines: float = 60.0, refresh_rate: int = 1, as_lines: bool | None = None
    ) -> None:
        super().__init__(refresh_rate=refresh_rate)
        if not seconds_between_lines >= 0:
            raise ValueError(f"seconds_between_lines must be at least 0, got {seconds_between_lines}")
        self.seconds_between_lines = seconds_between_lines
        self.as_lines = not sys.stdout.isatty() if as_lines is None else as_lines
        self._times = _StepTimes()
        self._last_line = -math.inf
        self._evaluation_began = 0.0
        self._evaluated_batches = 0

    @property
    def is_enabled(self) -> bool:
        """Whether bars are shown."""
        return super().is_enabled and not self.as_lines

    @property
    def writes_lines(self) -> bool:
        """Whether lines are written: by rank zero, where there are no bars."""
        return super().is_enabled and self.as_lines

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Print above the bar, or a line of its own."""
        if self.writes_lines:
            _write(sep.join(map(str, args)))
        else:
            super().print(*args, sep=sep, **kwargs)

    # ------------------------------------------------------------- training

    def on_train_start(self, *arguments: Any) -> None:
        """Start the clock."""
        super().on_train_start(*arguments)
        self._times = _StepTimes(self.trainer.global_step)
        self._last_line = -math.inf

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the time of the step, if one was made."""
        is_first = not self._times.seconds
        if self._times.step(trainer.global_step):
            self._line_now_and_then(lambda: self._training_line(trainer, pl_module), at_once=is_first)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, *arguments: Any) -> None:
        """Write the last line."""
        super().on_train_end(*arguments)
        trainer = self.trainer
        self._line_now_and_then(lambda: f"{_steps(trainer)} | training has ended", at_once=True)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar of training."""
        times = {}
        if (seconds := self._times.mean) is not None:
            times = {"step": f"{seconds:.3g}s", "end": _duration(self._seconds_to_the_end(trainer))}
        return times | dict(super().get_metrics(trainer, pl_module))

    def _training_line(self, trainer: Trainer, pl_module: LightningModule) -> str:
        metrics = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if isinstance(v, int | float)}
        metrics.pop("v_num", None)
        parts = [
            f"epoch {trainer.current_epoch}, {_steps(trainer)}",
            f"{self._times.mean or 0.0:.3g} s a step",
            f"{_duration(self._seconds_to_the_end(trainer))} to the end",
            ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()),
        ]
        return " | ".join(part for part in parts if part)

    def _seconds_to_the_end(self, trainer: Trainer) -> float:
        """Infinite where the run has no end."""
        steps = trainer.estimated_stepping_batches - trainer.global_step
        seconds = steps * (self._times.mean or 0.0) + evaluations_left(trainer) * self._times.evaluation
        timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        limits = [left for timer in timers if (left := timer.time_remaining()) is not None]
        return max(0.0, min([seconds, *limits]))

    # ----------------------------------------------------------- evaluation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of training."""
        super().on_validation_start(trainer, pl_module)
        self._begin_evaluation()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let it go on."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._times.evaluated(time.perf_counter() - self._evaluation_began)
        super().on_validation_end(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, *arguments: Any, **options: Any) -> None:
        """Count the batch."""
        super().on_validation_batch_end(trainer, *arguments, **options)
        self._evaluation_line("validation", self.total_val_batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_test_start(trainer, pl_module)
        self._begin_evaluation()

    def on_test_batch_end(self, trainer: Trainer, *arguments: Any, **options: Any) -> None:
        """Count the batch."""
        super().on_test_batch_end(trainer, *arguments, **options)
        self._evaluation_line("test", sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_predict_start(trainer, pl_module)
        self._begin_evaluation()

    def on_predict_batch_end(self, trainer: Trainer, *arguments: Any, **options: Any) -> None:
        """Count the batch."""
        super().on_predict_batch_end(trainer, *arguments, **options)
        self._evaluation_line("predict", sum(trainer.num_predict_batches))

    def _begin_evaluation(self) -> None:
        self._evaluation_began = time.perf_counter()
        self._evaluated_batches = 0

    def _evaluation_line(self, name: str, total: float) -> None:
        self._evaluated_batches += 1
        done = self._evaluated_batches
        each = (time.perf_counter() - self._evaluation_began) / done
        end = f"{_duration((total - done) * each)} to its end"
        self._line_now_and_then(lambda: f"{name}, batch {done} of {total:g} | {each:.3g} s a batch | {end}")

    def _line_now_and_then(self, line: Any, at_once: bool = False) -> None:
        now = time.perf_counter()
        if self.writes_lines and (at_once or now - self._last_line >= self.seconds_between_lines):
            self._last_line = now
            _write(f"{datetime.now():%Y-%m-%d %H:%M:%S} | {line()}")


class _StepTimes:
    """How long optimizer steps and evaluations take."""

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps
        self.seconds: deque[float] = deque(maxlen=RECENT)
        self.evaluation = 0.0
        self._evaluating = 0.0
        self._began = time.perf_counter()

    @property
    def mean(self) -> float | None:
        """Seconds a step; None before the first."""
        return sum(self.seconds) / len(self.seconds) if self.seconds else None

    def step(self, steps: int) -> bool:
        """Take the time since the last step, if ``steps`` made so far are more than then; whether they are."""
        if steps == self.steps:
            return False
        now = time.perf_counter()
        self.seconds.append((now - self._began - self._evaluating) / (steps - self.steps))
        self.steps, self._began, self._evaluating = steps, now, 0.0
        return True

    def evaluated(self, seconds: float) -> None:
        """Keep the time of an evaluation, and out of that of the next step."""
        self.evaluation = seconds
        self._evaluating += seconds


def evaluations_left(trainer: Trainer) -> int:
    """About how many evaluations there will be until the end of `fit`; 0 where it has no end, or they go by time."""
    period, steps = trainer.val_check_batch, trainer.estimated_stepping_batches
    if not trainer.enable_validation or period is None or math.isinf(period) or math.isinf(steps):
        return 0
    batches = trainer.accumulate_grad_batches / (period * (trainer.check_val_every_n_epoch or 1))
    return max(0, math.floor(steps * batches) - math.floor(trainer.global_step * batches))


def _steps(trainer: Trainer) -> str:
    steps, total = trainer.global_step, trainer.estimated_stepping_batches
    of = "" if math.isinf(total) else f" of {total:.0f} ({100 * steps / max(1, total):.1f} %)"
    return f"step {steps}{of}"


def _duration(seconds: float) -> str:
    return "an unknown time" if math.isinf(seconds) else str(timedelta(seconds=round(seconds)))


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
