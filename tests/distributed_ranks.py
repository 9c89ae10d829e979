"""Runs a function in N processes that form a distributed run on this machine, as `torchrun` would start them.

`run_ranks("module:function", arguments, ranks=2)` starts one Python process a rank. None is a fork of another: pools of
threads, and what libraries lock, do not survive a fork. Each has RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE,
MASTER_ADDR and MASTER_PORT in its environment, so that Lightning (`Trainer(accelerator="cpu", devices=ranks,
strategy="ddp")`) and `torch.distributed.init_process_group("gloo")` find each other; a single rank has none of them.
Arguments are JSON; results go to files, or to what a rank prints, which is kept apart by rank.

When a rank fails, the others get `grace` seconds to end by themselves. Whatever runs then, or after `timeout` seconds,
is killed with its children; so is all when the process of the tests dies. As a program: it is the process that
starts the ranks and waits for them, or, with a number as its second argument, one of these.
"""

import faulthandler
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
KILLED = -signal.SIGKILL
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")
_IMPORT_SECONDS = 300  # on a machine that is busy with much else


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
        function: ``module:function``; modules are found in tests/, tests/distributed/ and the repository.
        arguments: Of the function, JSON values; paths become texts.
        ranks: Number of processes.
        folder: For the outputs of the ranks.
        timeout: Seconds, after the imports of all, after which all are killed.
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
    job = {
        "function": function,
        "arguments": list(arguments),
        "ranks": ranks,
        "outputs": str(outputs),
        "grace": grace,
        "timeout": timeout,
    }
    outside = {k: v for k, v in os.environ.items() if k not in (*_VARIABLES, *_RENDEZVOUS)}
    path = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tests" / "distributed")))
    with (outputs / "launcher.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(job, default=str)],
            cwd=REPOSITORY,
            env=outside
            | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
            | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(_IMPORT_SECONDS + timeout)
        except BaseException:
            _kill_group(process.pid)
            process.wait()
            raise
    # Children of ranks, such as dataloader workers, that outlived them.
    _kill_group(process.pid)
    ended = outputs / "ended.json"
    if not ended.exists():
        log_text = (outputs / "launcher.txt").read_text(errors="replace")
        raise RanksFailedError(f"{function} could not be started ({process.returncode}):\n{log_text}", [])
    results = [
        RankResult(rank, code, (outputs / f"rank{rank}.txt").read_text(errors="replace"), seconds)
        for rank, (code, seconds) in enumerate(json.loads(ended.read_text()))
    ]
    if check and any(result.returncode for result in results):
        raise RanksFailedError(f"{function} failed in {ranks} processes", results)
    return results


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _run_rank(job: Mapping[str, Any], rank: int) -> None:
    """Be one rank; never returns."""
    code = 1
    try:
        faulthandler.enable()
        function = _function(job["function"])
        Path(job["outputs"], f"imported{rank}").touch()
        function(*job["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - it is printed, and the status says so
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without the end of a Python process, which waits for threads of the process group


def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _start_rank(job: Mapping[str, Any], rank: int, port: int) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if job["ranks"] > 1:
        values = (rank, rank, job["ranks"], job["ranks"], 0, 0)
        environment |= dict(zip(_VARIABLES, map(str, values), strict=True))
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with Path(job["outputs"], f"rank{rank}.txt").open("wb") as output:
        command = [sys.executable, __file__, json.dumps(job), str(rank)]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _main(job: Mapping[str, Any]) -> None:
    """Start the ranks and wait for them."""
    parent, port, begin = os.getppid(), free_port(), time.monotonic()
    ranks = [_start_rank(job, rank, port) for rank in range(job["ranks"])]
    imported = [Path(job["outputs"], f"imported{rank}") for rank in range(job["ranks"])]
    until = begin + _IMPORT_SECONDS
    has_begun = False
    ended: dict[int, tuple[int, float]] = {}
    while len(ended) < len(ranks):
        now = time.monotonic()
        # A rank that has failed before others were ready has set the time that they have left.
        has_failed = any(code for code, _ in ended.values())
        if not has_begun and not has_failed and all(path.exists() for path in imported):
            has_begun, begin, until = True, now, now + job["timeout"]
        for rank, process in enumerate(ranks):
            if rank not in ended and (code := process.poll()) is not None:
                ended[rank] = (code, now - begin)
                if code:
                    until = min(until, now + job["grace"])
        if os.getppid() != parent:  # the tests have died
            os.killpg(0, signal.SIGKILL)
        if now > until:
            for process in ranks:
                process.kill()
        time.sleep(0.02)
    whole = Path(job["outputs"]) / "ended.tmp"
    whole.write_text(json.dumps([ended[rank] for rank in range(job["ranks"])]))
    whole.rename(whole.with_suffix(".json"))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _run_rank(json.loads(sys.argv[1]), int(sys.argv[2]))
    _main(json.loads(sys.argv[1]))
