"""The launcher of distributed tests itself."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import fork_server
import pytest
import torch
import torch.distributed as dist
from distributed_ranks import KILLED, RanksFailedError, run_ranks

THIS = "test_ranks"


def add_ranks(folder, offset):
    dist.init_process_group("gloo")
    total = torch.tensor(dist.get_rank() + offset)
    dist.all_reduce(total)
    sys.stdout.write(f"of {dist.get_world_size()}\n")
    Path(folder, f"total{dist.get_rank()}").write_text(str(total.item()))


def fail_on_one():
    rank = int(os.environ["RANK"])
    if rank == 1:
        while not Path(os.environ["RANKS_TEST"], "pids").exists():
            time.sleep(0.01)
        raise ValueError("row 7 is bad")
    child = os.fork()
    if child:
        Path(os.environ["RANKS_TEST"], "pids").write_text(json.dumps([os.getpid(), child]))
    time.sleep(3600)


def test_ranks_find_each_other(tmp_path):
    results = run_ranks(f"{THIS}:add_ranks", [tmp_path, 10], ranks=3, folder=tmp_path, timeout=100)
    assert [(tmp_path / f"total{rank}").read_text() for rank in range(3)] == ["33"] * 3
    assert [result.output for result in results] == ["of 3\n"] * 3


def test_a_failed_rank_ends_the_others_and_their_children(tmp_path):
    with pytest.raises(RanksFailedError, match="row 7 is bad") as caught:
        run_ranks(
            f"{THIS}:fail_on_one",
            ranks=2,
            folder=tmp_path,
            timeout=100,
            grace=0.5,
            environment={"RANKS_TEST": str(tmp_path)},
        )
    assert [result.returncode for result in caught.value.results] == [KILLED, 1]
    until = time.monotonic() + 30
    while left := [pid for pid in json.loads((tmp_path / "pids").read_text()) if _runs(pid)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def _runs(pid):
    """Whether there is such a process; one that has died, but whose parent has not asked yet, is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sleep_for_ever():
    time.sleep(3600)


def test_time_is_bounded(tmp_path):
    with pytest.raises(RanksFailedError) as caught:
        run_ranks(f"{THIS}:sleep_for_ever", ranks=1, folder=tmp_path, timeout=2)
    assert caught.value.results[0].returncode == -signal.SIGKILL


def look_around(folder):
    found = {"threads": torch.get_num_threads(), "modules": sorted(set(fork_server.PRELOADED) - sys.modules.keys())}
    Path(folder, "found.json").write_text(json.dumps(found))


def test_processes_are_forks_of_a_server_that_has_imported_all_and_has_one_thread(tmp_path):
    """A fork leaves the threads behind, and what they have locked."""
    fork_server.start(f"{THIS}:look_around", [tmp_path], tmp_path / "output.txt").join(60)
    assert json.loads((tmp_path / "found.json").read_text()) == {"threads": 1, "modules": []}
    assert fork_server.threads_of_the_server() == 1


def start_another_and_die(folder):
    fork_server.PRELOADED = ()
    process = fork_server.start("time:sleep", [3600], Path(folder, "inner.txt"))
    Path(folder, "pid").write_text(str(process.pid))
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_die_with_those_that_have_started_them(tmp_path):
    process = fork_server.start(f"{THIS}:start_another_and_die", [tmp_path], tmp_path / "output.txt")
    process.join(100)
    assert process.exitcode == KILLED, (tmp_path / "output.txt").read_text()
    until = time.monotonic() + 30
    while _runs(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < until
        time.sleep(0.05)
