"""Ends a run whose rank or node is lost, with an error that names it.

Time-outs of collectives alone do not do it, as measured over gloo without this callback
(tests/distributed/test_two_nodes.py): a killed node ends the other one in 14 s, with its address in the error. A link
that is cut silently ends nothing before the time-out, 30 minutes by default. With one of 60 s it took 83 s, no error
named a node, and a rank zero that writes a model for longer than that would end the run, too.
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
"""Intervals in which a rank finds out why a collective failed, or ends by itself once another has said that it ends."""


class LostRankError(RuntimeError):
    """A rank, a node or the network between nodes is gone, so that this run cannot go on."""


class LostRanks(Callback):
    """Finds ranks that are gone, whatever the time-out of collectives; a slow rank is not a lost one.

    Every rank writes a sign of life into the store of the process group. If one is silent for too long (its node is
    gone, or a link drops packets silently), this process says which and ends with status 1, even when it waits in a
    collective. If a collective fails before, because its connection was reset, the same sentence is added to its error.
    A rank that fails for a reason of its own says so in its last sign; the errors of the others repeat it, and those
    that still wait for it four intervals later end, too.

    The time-out of collectives themselves, for ranks that live and hang, is `timeout` of the strategy, in seconds. It
    also bounds the wait for a rank that is lost before its first sign, while it sets up its data.

    Args:
        interval_seconds: Between signs of life.
        lost_after_seconds: Of silence after which a rank counts as lost.
    """

    _runs = count()  # in this process; the same on all ranks. What one leaves in the store is no news for the next

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
        """Begin to give signs of life and to watch those of the others."""
        if trainer.world_size > 1 and dist.is_initialized():
            self._begin(trainer)
            Thread(target=self._watch, name="lost ranks: watch", daemon=True).start()

    def _begin(self, trainer: Trainer) -> None:
        self._trainer, self._rank = trainer, trainer.global_rank
        self._main = trainer.strategy.cluster_environment.main_address  # type: ignore[attr-defined]
        self._me = f"rank {self._rank} on node {socket.gethostname()} ({_address(self._main)}, process {os.getpid()})"
        # A connection of its own, since one serves one thread.
        self._store: Any = PrefixStore(f"lost_ranks/{next(self._runs)}", _get_default_store().clone())
        self._store.set_timeout(timedelta(seconds=10))
        self._answered = time.monotonic()
        self._signs: dict[int, tuple[bytes, float]] = {}  # the last one of each rank, and when it came
        self._error: str | None = None
        self._stopping = Event()
        self._beating = Thread(target=self._beat, name="lost ranks: beat", daemon=True)
        self._beating.start()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add the cause to an error of a collective, or tell the others about an error of this rank's own."""
        if self._beating is None:
            # Such as data that one rank cannot read: the others wait for it.
            if trainer.world_size == 1 or not dist.is_initialized():
                return
            try:
                self._begin(trainer)
            except RuntimeError:  # of a store whose process has ended; so will all that wait for this one
                return
        if is_connection_failure(exception):
            exception.add_note(f"{self._explain(exception)} {self._advice()}")
        elif not isinstance(exception, SIGTERMException):  # all have agreed on that; some may still be on the way
            self._error = f"{type(exception).__name__}: {str(exception).partition(chr(10))[0]}"[:500]
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop once all ranks are done: the first to leave must not look like one that is lost."""
        if self._beating is not None:
            trainer.strategy.barrier("LostRanks")
            self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        if self._beating is not None:
            self._beating.join(2 * self.interval_seconds)  # it hangs where the store cannot be reached
            self._beating = None

    def _beat(self) -> None:
        """Write signs of life and read those of the others; may hang when the network does."""
        for number in count():
            is_last = self._stopping.is_set()
            with suppress(RuntimeError):  # of a store that does not answer; the watching thread says so when it lasts
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
        """Look at the clock, of this machine alone, and end the process: the main thread may wait in a collective."""
        while not self._stopping.wait(self.interval_seconds):
            grace = min(self.lost_after_seconds, _PATIENCE * self.interval_seconds)
            if trouble := self._trouble(self.lost_after_seconds, grace):
                self._end(f"{trouble} {self._advice()}")
                return

    def _trouble(self, silence: float, grace: float) -> str | None:
        """Who has ended for ``grace`` seconds, or was silent for ``silence``, or that the store was, in a sentence."""
        signs, answered, now = self._signs, self._answered, time.monotonic()
        ended, lost = [], []
        for sign, came in signs.values():
            name, _, error = json.loads(sign)
            if error and name != self._me and now - came >= grace:
                ended.append(f"{name} ended with {error}.")
            # Silence counts up to the last answer: a machine that slept itself must not blame the others.
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
        """Which ranks an error of a collective is about; waits to find out. Gloo names the address of the peer."""
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
    """Whether an error came from a collective or the store, and so may have its cause on another rank."""
    # Gloo raises plain RuntimeErrors.
    is_gloo = isinstance(error, RuntimeError) and re.search(r"gloo|NCCL|[Cc]onnection|[Tt]imed out", str(error))
    return isinstance(error, dist.DistError) or bool(is_gloo)


def _address(main_address: str) -> str:
    """The IP address of this node on the way to the main one; it only goes into messages."""
    family = socket.AF_INET6 if ":" in main_address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((main_address, 9))  # sends nothing
        return str(probe.getsockname()[0])
    return "address unknown"
