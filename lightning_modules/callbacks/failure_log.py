"""One line of every rank when a run fails.

Lightning and `torchrun` show tracebacks, but not which samples a rank was at.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.batching.ranks import rank_of_process
from lightning_modules.callbacks.reporting import output_folder

_NOTE = "failed in this process: "


class FailureLog(Callback):
    """Writes one line on the rank that an exception stops: who, where, in which batch, and why.

    To stderr, beginning with ``FAILED``, so that ``grep FAILED`` over the outputs of a thousand ranks tells which of
    them failed first and over what; and, added to what is there, to ``failures/rank{N}.log`` in the folder of the run.
    The place ends the traceback, too. Nothing is asked of other ranks, which may be the ones that are gone.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._place = "before the first batch"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the folder of the run: asking for it later would need all ranks."""
        self._folder = output_folder(trainer, None)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember the batch."""
        ids = getattr(batch, "sample_ids", None)
        named = f"a {type(batch).__name__}" if ids is None else ", ".join(map(str, ids))
        self._place = f"{_batch_name(trainer, batch_idx, dataloader_idx)} ({named})"

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *batch: Any) -> None:
        """Forget what it holds."""
        self._place = f"after {_batch_name(trainer, *batch[1:])}"

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = on_train_batch_start
    # The hooks of the other loops take the same arguments, with a dataloader's index behind them.
    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end  # type: ignore[assignment]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the line."""
        rank = f"rank {trainer.global_rank} of {trainer.world_size}"
        where = f"global step {trainer.global_step}, epoch {trainer.current_epoch}, {self._place}"
        line = report_failure(exception, rank, where)
        if self._folder is None:
            return
        path = self._folder / "failures" / f"rank{trainer.global_rank}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:  # a full disk may be why the run failed; that must stay the error that is raised
            sys.stderr.write(f"{path} could not be written: {error}\n")


def _batch_name(trainer: Trainer, batch_idx: int, dataloader_idx: int = 0) -> str:
    of = "" if trainer.training else f" of dataloader {dataloader_idx}"
    return f"{trainer.state.stage.value if trainer.state.stage else 'a'} batch {batch_idx}{of}"


def report_failure(exception: BaseException, rank: str, where: str) -> str:
    """Write the line of a failure to stderr, and its place to the exception as a note; returns the line."""
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    cause = " ".join(f"{type(exception).__name__}: {exception}".split())
    place = f"{rank} on {socket.gethostname()} (process {os.getpid()}), {where}"
    line = f"FAILED {time} {place}: {cause}\n"
    exception.add_note(_NOTE + place)
    sys.stderr.write(line)
    sys.stderr.flush()
    return line


@contextmanager
def failures_reported() -> Iterator[None]:
    """Write the line also for exceptions outside of a trainer: of settings and models that cannot be made."""
    try:
        yield
    except Exception as exception:
        if not any(note.startswith(_NOTE) for note in getattr(exception, "__notes__", [])):
            report_failure(exception, f"rank {rank_of_process()}", "outside of the trainer")
        raise
