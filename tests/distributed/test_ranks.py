"""The launcher of distributed tests itself."""

import os
import signal
import sys
import time
from pathlib import Path

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
        raise ValueError("row 7 is bad")
    if os.fork() == 0:
        time.sleep(3600)
    Path(os.environ["RANKS_TEST"], "waits").write_text(str(os.getpid()))
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
    while left := [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(path)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def sleep_for_ever():
    time.sleep(3600)


def test_time_is_bounded(tmp_path):
    with pytest.raises(RanksFailedError) as caught:
        run_ranks(f"{THIS}:sleep_for_ever", ranks=1, folder=tmp_path, timeout=2)
    assert caught.value.results[0].returncode == -signal.SIGKILL
