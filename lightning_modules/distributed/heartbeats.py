"""Signs of life between the processes of a run, so that a lost one is found soon and named."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed import DistError
from torch.distributed.distributed_c10d import default_pg_timeout

_STORE_TIMEOUT = timedelta(seconds=10)
_PATIENCE = 4
"""Intervals that a rank has to find out, or to end by itself once another one has said that it ends."""


@dataclass(frozen=True)
class Peer:
    """Where a rank runs.

    Attributes:
        rank: In the whole run.
        node: Host name of its machine.
        address: IP address under which the others reach it.
        pid: Of its process, on its machine.
    """

    rank: int
    node: str
    address: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} on node {self.node} ({self.address}, process {self.pid})"


def this_peer(rank: int, main_address: str) -> Peer:
    """Where this process runs.

    Args:
        rank: Of this process.
        main_address: Of the node of rank 0; the address of this node is that of the way to there, where there is one.
    """
    address = "address unknown"
    # It only goes into messages. A name may stand for several addresses, not all of which can be reached (IPv6).
    with suppress(OSError):
        for family, kind, protocol, _, target in socket.getaddrinfo(main_address, 9, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.connect(target)  # sends nothing
                address = probe.getsockname()[0]
                break
    return Peer(rank, socket.gethostname(), address, os.getpid())


def is_connection_failure(error: BaseException) -> bool:
    """Whether an error came from a collective or the store, and so may have its cause on another rank."""
    if isinstance(error, DistError):
        return True
    # Gloo raises plain RuntimeErrors.
    return isinstance(error, RuntimeError) and bool(re.search(r"gloo|NCCL|[Cc]onnection|[Tt]imed out", str(error)))


class Heartbeats:
    """Writes a sign of life of this rank into the store of the process group, and watches those of the others.

    Two threads: one talks to the store and may hang when the network does; the other one only looks at the clock. Only
    clocks of this machine are compared. A rank that computes for long, or waits for another one, lives; one whose
    process is gone or whose node cannot be reached does not.

    Args:
        store: Of the process group. Its own connection is made, since a connection serves one thread.
        me: Where this process runs.
        world_size: Number of ranks.
        interval: Seconds between signs of life.
        lost_after: Seconds of silence after which a rank counts as lost.
        on_lost: Called once, from a thread, with the sentence that says who is lost, or why another rank has ended.
        run: Of those that use this store one after the other, such as a `test` after a `fit`: what one has left there
            must not be taken for news by the next.
    """

    def __init__(
        self,
        store: Store,
        me: Peer,
        world_size: int,
        interval: float,
        lost_after: float,
        on_lost: Callable[[str], None],
        run: int = 0,
    ) -> None:
        self._me, self._interval, self._lost_after, self._on_lost = me, interval, lost_after, on_lost
        self._ranks = range(world_size)
        self._store: Any = PrefixStore(f"heartbeats/{run}", store.clone())
        self._store.set_timeout(_STORE_TIMEOUT)
        self._store.set(f"peer/{me.rank}", json.dumps(asdict(me)))
        self._store.set(f"beat/{me.rank}", "0")
        self._store_host = _host_of(store)
        self._stopping = threading.Event()
        self._answered = time.monotonic()
        self._changed = dict.fromkeys(self._ranks, self._answered)
        self._failed: dict[int, str] = {}
        self._peers = {me.rank: me}

    def start(self, patience: timedelta = default_pg_timeout) -> str | None:
        """Wait until all ranks have made their :class:`Heartbeats`; then begin to beat and to watch.

        Until then nobody can tell a rank that is gone from one that reads its data, but one that has failed says so.

        Args:
            patience: How long to wait.

        Returns:
            Why that will not happen; None if all are there.
        """
        deadline = time.monotonic() + patience.total_seconds()
        keys = [f"peer/{rank}" for rank in self._ranks]
        while True:
            self._read_failures()
            if told := self._told():
                return told
            if self._store.check(keys):
                break
            if time.monotonic() > deadline:
                missing = [rank for rank, key in zip(self._ranks, keys, strict=True) if not self._store.check([key])]
                return f"Ranks {missing} have not come so far within {patience}."
            time.sleep(self._interval / 10)
        told_peers = self._store.multi_get(keys)
        self._peers = {rank: Peer(**json.loads(text)) for rank, text in zip(self._ranks, told_peers, strict=True)}
        self._answered = time.monotonic()
        self._changed = dict.fromkeys(self._ranks, self._answered)
        for work in (self._beat, self._watch):
            threading.Thread(target=work, name=f"heartbeats{work.__name__}", daemon=True).start()
        return None

    def stop(self) -> None:
        """End both threads; they may take an interval for it."""
        self._stopping.set()

    def tell_failure(self, error: BaseException) -> None:
        """Let the other ranks know why this one ends; without effect where the store cannot be reached."""
        first_line = str(error).partition("\n")[0]
        told = json.dumps([self._me.rank, f"{type(error).__name__}: {first_line}"[:500]]) + "\n"

        def tell() -> None:
            # A store that is gone takes the whole run with it, and the others say so themselves.
            with suppress(RuntimeError):
                self._store.append("failed", told)

        # The store may be what failed; a dead connection must not hold the caller up.
        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        thread.join(2 * self._interval)

    def explain(self, error: BaseException) -> str:
        """Say which ranks an error of a collective is about; waits for up to four intervals to find out.

        Args:
            error: What the collective raised; gloo names the address of the peer.
        """
        began = time.monotonic()
        while time.monotonic() - began < _PATIENCE * self._interval:
            if told := self._told():
                return told
            if lost := self._lost(2 * self._interval):
                return lost
            time.sleep(self._interval / 10)
        addresses = set(re.findall(r"\[([0-9a-fA-F.:]+)\]", str(error)))
        near = [peer for peer in self._peers.values() if peer.address in addresses and peer.rank != self._me.rank]
        if near:
            return f"A connection to {_listed(near)} broke, or gave no data in time; all ranks give signs of life."
        return "All ranks give signs of life: one of them is slower than the time-out, or called another collective."

    def _beat(self) -> None:
        beats: dict[int, bytes] = {}
        count = 0
        while not self._stopping.is_set():
            count += 1
            # Also DistError. The watching thread says so when it lasts.
            with suppress(RuntimeError):
                self._store.set(f"beat/{self._me.rank}", str(count))
                told = self._store.multi_get([f"beat/{rank}" for rank in self._ranks])
                self._read_failures()
                self._answered = time.monotonic()
                for rank, beat in zip(self._ranks, told, strict=True):
                    if beats.get(rank) != beat:
                        beats[rank], self._changed[rank] = beat, self._answered
            self._stopping.wait(self._interval)

    def _watch(self) -> None:
        told_at = math.inf
        while not self._stopping.wait(self._interval):
            # A rank that has said why it ends will not come back; on a GPU nothing else may end a wait for it.
            told = self._told()
            told_at = min(told_at, time.monotonic()) if told else math.inf
            is_waiting = time.monotonic() - told_at > min(self._lost_after, _PATIENCE * self._interval)
            if lost := told if is_waiting else self._lost(self._lost_after):
                self._on_lost(lost)
                return

    def _read_failures(self) -> None:
        if self._store.check(["failed"]):
            self._failed = dict(json.loads(line) for line in self._store.get("failed").decode().splitlines())

    def _told(self) -> str | None:
        """What other ranks have said about why they end."""
        others = {rank: text for rank, text in self._failed.items() if rank != self._me.rank}
        return " ".join(f"{self._named(rank)} ended with {text}." for rank, text in sorted(others.items())) or None

    def _named(self, rank: int) -> str:
        if rank not in self._peers:  # it has failed before all had found each other
            self._peers[rank] = Peer(**json.loads(self._store.get(f"peer/{rank}")))
        return str(self._peers[rank])

    def _lost(self, seconds: float) -> str | None:
        """The sentence about ranks, or the store, without a sign of life for so long."""
        answered = self._answered
        silence = time.monotonic() - answered
        if silence > seconds:
            return (
                f"Lost the store of the run at {self._store_host}: no answer for {silence:.0f} s. Its node is gone, or "
                f"the network between it and {self._me}."
            )
        # Silence counts up to the last answer: a machine that slept itself must not blame the others.
        lost = [self._peers[rank] for rank in self._ranks if answered - self._changed[rank] > seconds]
        if not lost:
            return None
        silence = answered - min(self._changed[peer.rank] for peer in lost)
        return f"Lost {_listed(lost)}: no sign of life for {silence:.0f} s. Seen from {self._me}."


def _host_of(store: Store) -> str:
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return f"{store.host}:{store.port}" if isinstance(store, TCPStore) else type(store).__name__


def _listed(peers: Collection[Peer]) -> str:
    shown = [str(peer) for peer in list(peers)[:8]]
    return ", ".join(shown) + (f" and {len(peers) - 8} more" if len(peers) > 8 else "")
