"""Ends a run whose rank or node is lost, with an error that names it."""

from __future__ import annotations

import logging
import os
import sys
from itertools import count
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from lightning_modules.distributed.heartbeats import Heartbeats, is_connection_failure, this_peer

log = logging.getLogger(__name__)


class LostRankError(RuntimeError):
    """A rank, a node or the network between nodes is gone, so that this run cannot go on."""


class LostRanks(Callback):
    """Finds ranks that are gone, whatever the time-out of collectives; a slow rank is not a lost one.

    Every rank gives a sign of life through the store of the process group. If one is silent for too long (its node is
    gone, or a link drops packets silently), this process says which and ends with status 1, even when it waits in a
    collective. If a collective fails before, because its connection was reset, the same sentence is added to its error.
    A rank that fails for a reason of its own tells it to the others, whose errors repeat it; those that still wait for
    it four intervals later end, too.

    The time-out of collectives themselves, for ranks that live and hang, is `timeout` of the strategy, in seconds.

    Args:
        interval_seconds: Between signs of life.
        lost_after_seconds: Of silence after which a rank counts as lost.
    """

    _runs = count()  # in this process; the same on all ranks

    def __init__(self, interval_seconds: float = 5.0, lost_after_seconds: float = 60.0) -> None:
        if not 0 < 2 * interval_seconds <= lost_after_seconds:
            raise ValueError(
                f"lost_ranks: lost_after_seconds ({lost_after_seconds:g}) must be at least twice interval_seconds "
                f"({interval_seconds:g}), which must be positive"
            )
        self.interval_seconds = interval_seconds
        self.lost_after_seconds = lost_after_seconds
        self._heartbeats: Heartbeats | None = None
        self._checkpoint = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to give signs of life and to watch those of the others."""
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        self._heartbeats = self._made(trainer)
        if problem := self._heartbeats.start():
            raise LostRankError(f"{problem} {self._advice()}")

    def _made(self, trainer: Trainer) -> Heartbeats:
        environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
        return Heartbeats(
            _get_default_store(),  # the only way to it, see init_process_group
            this_peer(trainer.global_rank, environment.main_address),
            trainer.world_size,
            self.interval_seconds,
            self.lost_after_seconds,
            self._end,
            next(self._runs),
        )

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        """Remember where the run can be resumed from."""
        callback = trainer.checkpoint_callback
        folder = getattr(callback, "folder", None)
        self._checkpoint = f"{folder}/latest" if folder else getattr(callback, "last_model_path", "")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add the cause to an error of a collective, or tell the others about an error of this rank's own."""
        if self._heartbeats is None:
            # Such as data that one rank cannot read: the others wait for it in `setup`, or will.
            if trainer.world_size == 1 or not dist.is_initialized():
                return
            try:
                self._heartbeats = self._made(trainer)
            except RuntimeError:  # of the store: its process has ended, and so will all that wait for this one
                return
        if isinstance(exception, LostRankError):
            pass
        elif is_connection_failure(exception):
            exception.add_note(f"{self._heartbeats.explain(exception)} {self._advice()}")
        elif not isinstance(exception, SIGTERMException):  # all ranks have agreed on that; some may still be on the way
            self._heartbeats.tell_failure(exception)
        self._heartbeats.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop once all ranks are done: the first to leave must not look like one that is lost."""
        if self._heartbeats is not None:
            trainer.strategy.barrier("LostRanks")
            self._heartbeats.stop()
            self._heartbeats = None

    def _advice(self) -> str:
        place = f"--ckpt_path {self._checkpoint}" if self._checkpoint else "--ckpt_path and the last checkpoint"
        return (
            "Look at the end of the log of what is named here and at its node (out of memory, preempted, rebooted, "
            f"network), then start the run again with {place}; another number of devices is fine."
        )

    def _end(self, lost: str) -> None:
        """Called by the watching thread: the main one may wait in a collective that nothing else would end."""
        try:
            raise LostRankError(f"{lost} {self._advice()}")
        except LostRankError as caught:
            error = caught
            get_error_handler().record_exception(error)  # for the summary of torchrun
        sys.stdout.flush()
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)
