"""One line of every rank when a run fails."""

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
from lightning.pytorch.trainer.states import RunningStage

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

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = on_train_batch_start

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Forget it."""
        self._place = f"after {_batch_name(trainer, batch_idx, dataloader_idx)}"

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the line."""
        where = f"global step {trainer.global_step}, epoch {trainer.current_epoch}, {self._place}"
        report_failure(exception, trainer.global_rank, trainer.world_size, where, self._folder)


def _batch_name(trainer: Trainer, batch_idx: int, dataloader_idx: int) -> str:
    stage = trainer.state.stage
    assert stage is not None
    name = f"{stage.value} batch {batch_idx}"
    return name if stage == RunningStage.TRAINING else f"{name} of dataloader {dataloader_idx}"


def report_failure(
    exception: BaseException, rank: int, world_size: int | None, where: str, folder: Path | None = None
) -> None:
    """Write the line of a failure to stderr, to the exception as a note, and to ``failures/`` in ``folder``.

    Args:
        exception: What happened.
        rank: Of this process.
        world_size: Number of ranks; None where it is not known yet.
        where: In the run.
        folder: Of the run, if there is one yet.
    """
    of = "" if world_size is None else f" of {world_size}"
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    cause = " ".join(f"{type(exception).__name__}: {exception}".split())
    place = f"rank {rank}{of} on {socket.gethostname()} (process {os.getpid()}), {where}"
    line = f"FAILED {time} {place}: {cause}"
    exception.add_note(_NOTE + place)
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
    if folder is not None:
        _append(folder / "failures" / f"rank{rank}.log", line)


def _append(path: Path, line: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:  # a full disk may be why the run failed; that must stay the error that is raised
        sys.stderr.write(f"{path} could not be written: {error}\n")


@contextmanager
def failures_reported() -> Iterator[None]:
    """Write the line also for exceptions outside of a trainer: of settings and models that cannot be made."""
    try:
        yield
    except Exception as exception:
        if not any(note.startswith(_NOTE) for note in getattr(exception, "__notes__", [])):
            report_failure(exception, rank_of_process(), None, "outside of the trainer")
        raise
