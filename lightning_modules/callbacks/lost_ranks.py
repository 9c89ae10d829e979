"""Ends a run when a rank or node is lost, with an error that names it.

Time-outs of collectives are not enough, as measured over gloo without this callback
(tests/distributed/test_two_nodes.py). If a node is killed, the other one ends after 14 s, with an address in the error.
If a link drops packets silently, nothing ends before the time-out, 30 minutes by default. With a time-out of 60 s it
took 83 s, and no error named a node. Such a short time-out also ends runs whose rank zero writes a model for longer.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from contextlib import suppress
from datetime import timedelta
from itertools import count
from threading import Event, Thread
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

_PATIENCE = 4
"""Intervals for which a rank looks for the cause of a failed collective, or waits after another rank has failed."""


class LostRankError(RuntimeError):
    """A rank, a node or the network between nodes is lost, so that the run cannot continue."""


class LostRanks(Callback):
    """Finds lost ranks, independently of the time-out of collectives; a slow rank is not a lost one.

    Every rank regularly writes a heartbeat into the store of the process group. If a rank is silent for too long (its
    node is down, or a link drops packets silently), the other ranks name it and end with status 1, also while they wait
    in a collective. If a collective fails earlier, because its connection was reset, the same text is added to its
    error. A rank that fails for another reason writes its error into its last heartbeat. The errors of the other ranks
    repeat it, and ranks that still wait four intervals later end, too.

    `timeout` of the strategy, in seconds, is the time-out of collectives. It ends ranks that are alive but hang, and
    ranks that wait for one that was lost before its first heartbeat, while it set up its data.

    Args:
        interval_seconds: Seconds between heartbeats.
        lost_after_seconds: Seconds of silence after which a rank counts as lost.

    Raises:
        ValueError: If ``lost_after_seconds`` is less than two intervals, or the interval is not positive.
    """

    _runs = count()  # runs of this process, equal on all ranks: a run must not read the heartbeats of the one before

    def __init__(self, interval_seconds: float = 5.0, lost_after_seconds: float = 60.0) -> None:
        if not 0 < 2 * interval_seconds <= lost_after_seconds:
            raise ValueError(
                f"lost_ranks: lost_after_seconds ({lost_after_seconds:g}) must be at least twice interval_seconds "
                f"({interval_seconds:g}), which must be positive"
            )
        self.interval_seconds = interval_seconds
        self.lost_after_seconds = lost_after_seconds
        self._beating: Thread | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start to write heartbeats and to watch those of the other ranks."""
        if trainer.world_size > 1 and dist.is_initialized():
            self._begin(trainer)
            Thread(target=self._watch, name="lost ranks: watch", daemon=True).start()

    def _begin(self, trainer: Trainer) -> None:
        self._trainer, self._rank = trainer, trainer.global_rank
        self._main = trainer.strategy.cluster_environment.main_address  # type: ignore[attr-defined]
        self._me = f"rank {self._rank} on node {socket.gethostname()} ({_address(self._main)}, process {os.getpid()})"
        # A connection of its own, because a connection serves one thread.
        self._store: Any = PrefixStore(f"lost_ranks/{next(self._runs)}", _get_default_store().clone())
        self._store.set_timeout(timedelta(seconds=10))
        self._answered = time.monotonic()
        self._signs: dict[int, tuple[bytes, float]] = {}  # the last heartbeat of each rank, and when it came
        self._error: str | None = None
        self._stopping = Event()
        self._beating = Thread(target=self._beat, name="lost ranks: beat", daemon=True)
        self._beating.start()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add the cause to an error of a collective, or report an error of this rank to the others."""
        if self._beating is None:
            # The rank failed in its set-up, for instance because it cannot read its data. The others wait for it.
            if trainer.world_size == 1 or not dist.is_initialized():
                return
            try:
                self._begin(trainer)
            except RuntimeError:  # the process of the store has ended, which ends the other ranks, too
                return
        if is_connection_failure(exception):
            exception.add_note(f"{self._explain(exception)} {self._advice()}")
        elif not isinstance(exception, SIGTERMException):  # all ranks have agreed on it, but some may not be there yet
            self._error = f"{type(exception).__name__}: {str(exception).partition(chr(10))[0]}"[:500]
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop when all ranks are done, so that the first one to leave is not taken for a lost one."""
        if self._beating is not None:
            trainer.strategy.barrier("LostRanks")
            self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        if self._beating is not None:
            self._beating.join(2 * self.interval_seconds)  # it hangs if the store cannot be reached
            self._beating = None

    def _beat(self) -> None:
        """Write heartbeats and read those of the others; may hang if the network does."""
        for number in count():
            is_last = self._stopping.is_set()
            with suppress(RuntimeError):  # the store does not answer; the watching thread reports it if that lasts
                self._store.set(str(self._rank), json.dumps([self._me, number, self._error]))
                ranks = range(self._trainer.world_size)
                begun = [rank for rank in ranks if rank in self._signs or self._store.check([str(rank)])]
                signs = self._store.multi_get([str(rank) for rank in begun])
                now = time.monotonic()
                news = {r: (s, now) for r, s in zip(begun, signs, strict=True) if self._signs.get(r, (b"",))[0] != s}
                self._signs, self._answered = self._signs | news, now
            if is_last:
                return
            self._stopping.wait(self.interval_seconds)

    def _watch(self) -> None:
        """Compare with the clock of this machine, and end the process; the main thread may wait in a collective."""
        while not self._stopping.wait(self.interval_seconds):
            grace = min(self.lost_after_seconds, _PATIENCE * self.interval_seconds)
            if trouble := self._trouble(self.lost_after_seconds, grace):
                self._end(f"{trouble} {self._advice()}")
                return

    def _trouble(self, silence: float, grace: float) -> str | None:
        """A sentence about ranks that failed ``grace`` seconds ago or are silent for ``silence``, or the store."""
        signs, answered, now = self._signs, self._answered, time.monotonic()
        ended, lost = [], []
        for sign, came in signs.values():
            name, _, error = json.loads(sign)
            if error and name != self._me and now - came >= grace:
                ended.append(f"{name} ended with {error}.")
            # Silence counts up to the last answer: a machine that was suspended must not blame the others.
            elif not error and answered - came > silence:
                lost.append(name)
        if ended:
            return " ".join(ended)
        if now - answered > silence:
            return (
                f"Lost the store of the run at {self._main}: no answer for {now - answered:.0f} s. Its node is gone, "
                f"or the network between it and {self._me}."
            )
        shown = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        return f"Lost {shown}: no sign of life for {silence:g} s. Seen from {self._me}." if lost else None

    def _explain(self, error: BaseException) -> str:
        """Which ranks caused the error of a collective; waits to find out. Gloo names the address of the peer."""
        until = time.monotonic() + _PATIENCE * self.interval_seconds
        while time.monotonic() < until:
            if trouble := self._trouble(2 * self.interval_seconds, 0.0):
                return trouble
            time.sleep(self.interval_seconds / 10)
        addresses = re.findall(r"\[([0-9a-fA-F.:]+)\]", str(error))
        names = [json.loads(sign)[0] for rank, (sign, _) in self._signs.items() if rank != self._rank]
        near = [name for name in names if any(f"({address}," in name for address in addresses)]
        about = f" The connection was to {', '.join(near)}." if near else ""
        return f"All ranks give signs of life: one is slower than the time-out, or called another collective.{about}"

    def _advice(self) -> str:
        callback = self._trainer.checkpoint_callback
        folder = getattr(callback, "folder", None)
        place = f"{folder}/latest" if folder else getattr(callback, "last_model_path", "") or "and the last checkpoint"
        return (
            "Look at the end of the log of what is named here and at its node (out of memory, preempted, rebooted, "
            f"network), then start the run again with --ckpt_path {place}; another number of devices is fine."
        )

    def _end(self, message: str) -> None:
        try:
            raise LostRankError(message)
        except LostRankError as error:
            get_error_handler().record_exception(error)  # for the summary of torchrun
        sys.stdout.flush()
        print(f"LostRankError: {message}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)


def is_connection_failure(error: BaseException) -> bool:
    """Whether an error came from a collective or the store, so that another rank may have caused it."""
    # Gloo raises plain RuntimeErrors.
    is_gloo = isinstance(error, RuntimeError) and re.search(r"gloo|NCCL|[Cc]onnection|[Tt]imed out", str(error))
    return isinstance(error, dist.DistError) or bool(is_gloo)


def _address(main_address: str) -> str:
    """The IP address of this node on the route to the main node; used in messages only."""
    family = socket.AF_INET6 if ":" in main_address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((main_address, 9))  # sends nothing
        return str(probe.getsockname()[0])
    return "address unknown"
