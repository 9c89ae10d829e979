"""Ctrl-C and kill -9 of a process that has workers: who prints, and who is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = """
import time
from datamodules.storage.worker_processes import WorkerProcesses
if __name__ == "__main__":
    with WorkerProcesses(2) as pool:
        waits = [pool.submit(time.sleep, 600) for _ in range(4)]
        print(*pool._processes, flush=True)
        waits[0].result()
"""


def heeds_ctrl_c():
    """What a shell starts in the background ignores it, and so do its children, such as these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def command(tmp_path):
    """The process and its workers, which may still be at their imports."""
    program = tmp_path / "command.py"
    program.write_text(COMMAND)
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heeds_ctrl_c,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    yield process, workers
    for pid in (process.pid, *workers):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("pause", [0.0, pytest.param(1.0, marks=pytest.mark.thorough)])
def test_ctrl_c_is_for_the_first_process_alone(command, pause):
    process, workers = command
    assert len(workers) == 2
    time.sleep(pause)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not any(map(is_alive, workers))


def test_workers_end_with_a_process_that_is_killed(command):
    process, workers = command
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while any(map(is_alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
