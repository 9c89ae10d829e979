"""Runs a function in N processes that form a distributed run on this machine, as `torchrun` would start them.

`run_ranks("module:function", arguments, ranks=2)` starts one process a rank, by tests/fork_server.py. Each has RANK,
LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment, so that Lightning
(`Trainer(accelerator="cpu", devices=ranks, strategy="ddp")`) and `torch.distributed.init_process_group("gloo")` find
each other; a single rank has none of them. Results go to files, or to what a rank prints, which is kept apart by rank.

When a rank fails, the others get `grace` seconds to end by themselves. Whatever runs then, or after `timeout` seconds,
is killed with its children; so is all when the process of the tests dies.
"""

import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fork_server

KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class RankResult:
    """How the process of a rank ended.

    Attributes:
        rank: Its number.
        returncode: 0, or 1 after an exception, or minus the signal that ended it; `KILLED` also where it was stopped
            because of the others or of the time.
        output: What it printed, to either stream.
        seconds: From its start to its end.
    """

    rank: int
    returncode: int
    output: str
    seconds: float


class RanksFailedError(AssertionError):
    """A rank did not end well, or in time; the message has the output of all, and at its end of the first to fail."""

    def __init__(self, message: str, results: Sequence[RankResult]) -> None:
        self.results = list(results)
        ordered = sorted(results, key=lambda r: (r.returncode != 0, -r.seconds))
        parts = [f"---- rank {r.rank} ({r.returncode}, {r.seconds:.1f} s)\n{r.output[-8000:]}" for r in ordered]
        super().__init__("\n".join([message, *parts]))


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_ranks(
    function: str,
    arguments: Sequence[Any] = (),
    *,
    ranks: int,
    folder: Path,
    timeout: float = 240.0,
    grace: float = 60.0,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
) -> list[RankResult]:
    """Run a function in each of several processes and wait for them.

    Args:
        function: As of :func:`fork_server.start`.
        arguments: Of the function; what `pickle` takes.
        ranks: Number of processes.
        folder: For the outputs of the ranks.
        timeout: Seconds after which all are killed.
        grace: Seconds that the others have when a rank has failed.
        environment: More variables.
        check: Raise an error unless all ranks end well.

    Returns:
        How each rank ended.

    Raises:
        RanksFailedError: If one failed or was killed, with the outputs of all.
    """
    outputs = Path(folder) / f"ranks-{time.time_ns()}"
    outputs.mkdir(parents=True)
    port, begin = free_port(), time.monotonic()
    until = begin + timeout
    processes = []
    ended: dict[int, tuple[int, float]] = {}
    try:
        for rank in range(ranks):
            variables = (variables_of(rank, ranks, port) if ranks > 1 else {}) | dict(environment or {})
            processes.append(fork_server.start(function, arguments, outputs / f"rank{rank}.txt", variables))
            if rank == 0:  # the server, which the first one may have waited for, is there
                begin = time.monotonic()
                until = begin + timeout
        while len(ended) < ranks:
            now = time.monotonic()
            for rank, process in enumerate(processes):
                if rank not in ended and (code := process.exitcode) is not None:
                    ended[rank] = (code, now - begin)
                    if code:
                        until = min(until, now + grace)
                elif now > until:
                    fork_server.kill(process)
            time.sleep(0.02)
    finally:
        # Children of ranks, such as dataloader workers, that outlived them, too.
        for process in processes:
            fork_server.kill(process)
    results = [
        RankResult(rank, code, (outputs / f"rank{rank}.txt").read_text(errors="replace"), seconds)
        for rank, (code, seconds) in sorted(ended.items())
    ]
    if check and any(result.returncode for result in results):
        raise RanksFailedError(f"{function} failed in {ranks} processes", results)
    return results


def variables_of(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The environment of a rank of several on one machine."""
    values = (rank, rank, ranks, ranks, 0, 0)
    found = dict(zip(fork_server.OF_A_RANK, map(str, values), strict=True))
    return found | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
