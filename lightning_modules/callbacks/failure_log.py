"""One line of every rank when a run fails.

Lightning and `torchrun` show tracebacks, but not which samples a rank was at.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.batching.ranks import rank_of_process
from lightning_modules.callbacks.reporting import output_folder
from lightning_modules.configuration.mistakes import (
    PLACE_NOTE,
    TRACEBACK_NOTE,
    is_debugging,
    is_mistake,
    mistakes_reported,
)

_IS_REPORTED: ContextVar[bool] = ContextVar("is_reported", default=False)
"""Whether this process belongs to a command that says a mistake in its own words, see :func:`failures_reported`."""


class FailureLog(Callback):
    """Writes one line on the rank that an exception stops: who, where, in which batch, and why.

    To stderr, beginning with ``FAILED``, so that ``grep FAILED`` over the outputs of a thousand ranks tells which of
    them failed first and over what; and, added to what is there, to ``failures/rank{N}.log`` in the folder of the run.
    The log also gets the traceback, which the place ends. Nothing is asked of other ranks, which may be the ones that
    are gone.

    A user's mistake is no such line on stderr: the command says it itself, once for all processes of a machine, see
    :mod:`lightning_modules.configuration.mistakes`.
    """

    folder: Path | None = None
    """Of the run: what the command says at first, then where the logger writes."""

    stage: str | None = None
    """Of the last batch, as Lightning names it (``train``, ``validate``, ...); None before the first one."""

    def __init__(self) -> None:
        self._place = "before the first batch"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the folder of the run: asking for it later would need all ranks."""
        self.folder = output_folder(trainer, None)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember the batch."""
        ids = getattr(batch, "sample_ids", None)
        named = f"a {type(batch).__name__}" if ids is None else ", ".join(map(str, ids))
        self._place = f"{_batch_name(trainer, batch_idx, dataloader_idx)} ({named})"
        self.stage = trainer.state.stage.value if trainer.state.stage else None

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
        # The command says it in its own words.
        is_said = _IS_REPORTED.get() and is_mistake(exception)
        line = report_failure(exception, rank, where, quiet=is_said)
        write_failure(exception, line, self.folder, trainer.global_rank)


def _batch_name(trainer: Trainer, batch_idx: int, dataloader_idx: int = 0) -> str:
    of = "" if trainer.training else f" of dataloader {dataloader_idx}"
    return f"{trainer.state.stage.value if trainer.state.stage else 'a'} batch {batch_idx}{of}"


def report_failure(exception: BaseException, rank: str, where: str, *, quiet: bool = False) -> str:
    """Write the line of a failure to stderr, and its place to the exception as a note.

    Args:
        exception: What has failed.
        rank: And in which process.
        where: And at which batch.
        quiet: Write nothing to stderr.

    Returns:
        The line.
    """
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    cause = " ".join(f"{type(exception).__name__}: {exception}".split())
    place = f"{rank} on {socket.gethostname()} (process {os.getpid()}), {where}"
    line = f"FAILED {time} {place}: {cause}\n"
    exception.add_note(PLACE_NOTE + place)
    if not quiet:
        sys.stderr.write(line)
        sys.stderr.flush()
    return line


def write_failure(exception: BaseException, line: str, folder: Path | None, rank: int) -> None:
    """Add line and traceback to ``failures/rank{N}.log``, and a note about it to the exception.

    Args:
        exception: What has failed.
        line: About it, see :func:`report_failure`.
        folder: Of the run; None writes nothing.
        rank: N.
    """
    if folder is None:
        return
    path = folder / "failures" / f"rank{rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "".join(traceback.format_exception(exception)))
    except OSError as error:  # a full disk may be why the run failed; that must stay the error that is raised
        sys.stderr.write(f"{path} could not be written: {error}\n")
    else:
        exception.add_note(f"{TRACEBACK_NOTE}{path}")


def run_folder(trainer: Mapping[str, Any]) -> Path | None:
    """The folder of a run whose trainer is not made yet; None where its settings name none.

    Args:
        trainer: Settings of the trainer.
    """
    logger = trainer.get("logger")
    options = logger.get("init_args") if isinstance(logger, Mapping) else None
    parts = [(options or {}).get(name) for name in ("save_dir", "name", "version")]
    if all(isinstance(part, str) for part in parts):
        return Path(*map(str, parts))
    root = trainer.get("default_root_dir")
    return Path(root) if root else None


def log_failure(exception: BaseException, folder: Path | None) -> None:
    """Write the failure of a command outside of its trainer, unless the trainer has done so.

    Args:
        exception: What has failed.
        folder: Of the run, see :func:`run_folder`.
    """
    if _is_noted(exception):
        return
    rank = rank_of_process()
    is_said = _IS_REPORTED.get() and is_mistake(exception)
    line = report_failure(exception, f"rank {rank}", "outside of the trainer", quiet=is_said)
    write_failure(exception, line, folder, rank)


def _is_noted(exception: BaseException) -> bool:
    return any(note.startswith(PLACE_NOTE) for note in getattr(exception, "__notes__", []))


@contextmanager
def failures_reported(program: str) -> Iterator[None]:
    """End the process with a few lines at a user's mistake, and write the line of a failure for other errors.

    Args:
        program: Name of the command.

    Raises:
        SystemExit: In place of a mistake, see :mod:`lightning_modules.configuration.mistakes`.
    """
    token = _IS_REPORTED.set(not is_debugging())
    try:
        with mistakes_reported(program):
            try:
                yield
            except Exception as exception:
                log_failure(exception, None)
                raise
    finally:
        _IS_REPORTED.reset(token)
