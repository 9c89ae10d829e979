"""The comparison process works on other threads, in worker processes and after a time-out; it leaves nothing behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datamodules.answers.symbolic import SymbolicComparer, symbolically_equal

REPOSITORY = Path(__file__).parents[3]

PARENT = """
import sys, time
from datamodules.answers.symbolic import _comparer, symbolically_equal
assert symbolically_equal("2x", "x + x")
print(_comparer._process.pid, flush=True)
if sys.argv[1] == "stay":
    time.sleep(600)
"""


@pytest.fixture
def comparer():
    comparer = SymbolicComparer()
    yield comparer
    comparer.close()


@pytest.fixture(scope="module")
def lasting_comparer():
    """One for questions that its worker should survive."""
    comparer = SymbolicComparer()
    yield comparer
    comparer.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> bool:
    for _ in range(600):
        if not is_running(pid):
            return True
        time.sleep(0.1)
    return False


def test_on_other_threads_each_gets_its_own_verdict():
    pairs = [(f"{n}x + x", f"{n + 1}x") for n in range(2, 8)] + [(f"{n}x", f"{n + 1}x") for n in range(2, 8)]
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda pair: symbolically_equal(*pair), pairs))
    assert verdicts == [True] * 6 + [False] * 6


def _put_verdict(queue) -> None:
    queue.put(symbolically_equal("x^2", "x*x"))


def test_in_a_forked_daemon_that_may_have_no_children_of_its_own_kind():
    assert symbolically_equal("x(x+1)", "x^2 + x")  # the parent's worker runs already
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_put_verdict, args=(queue,), daemon=True)
    process.start()
    assert queue.get(timeout=60)
    process.join(timeout=60)
    assert process.exitcode == 0
    assert symbolically_equal("y(y+1)", "y^2 + y")  # and still does


def test_time_limit_counts_as_different_and_the_next_question_is_answered(comparer, caplog):
    assert comparer.equal("2x", "3x - x")
    comparer.seconds_to_answer = 0.0
    assert not comparer.equal("2x", "x + x")
    assert "no verdict on '2x' and 'x + x'" in caplog.text
    comparer.seconds_to_answer = 60
    assert comparer.equal("a + b", "b + a")


HOSTILE = ["9^{9^{9^{9}}}", "9**9**9**9", "x 7^{7^{7^{7^{7}}}}", "(10^{10^9})!", "x^{999999999}!"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_powers_end_by_themselves_and_leave_the_worker_usable(lasting_comparer, hostile):
    assert not lasting_comparer.equal(hostile, "x")
    assert lasting_comparer.equal("a + b", "b + a")


@pytest.mark.parametrize("text", ["\n", '"}\n{"', "\ud800", "\0", "$$", "\\", "{" * 500, "\\frac{1}{" * 90])
def test_texts_that_could_break_the_protocol_do_not(lasting_comparer, text):
    assert lasting_comparer.equal("2x", "x + x")
    assert not lasting_comparer.equal(text, "x")
    assert lasting_comparer.equal("a + b", "b + a")


def test_dead_worker_is_replaced(comparer):
    assert comparer.equal("2x", "x*2")
    comparer._process.kill()
    comparer._process.wait()
    assert comparer.equal("3x", "x*3")


def test_worker_that_dies_at_a_question_is_replaced_at_the_next(comparer):
    assert comparer.equal("2x", "x*2")
    os.kill(comparer._process.pid, signal.SIGSTOP)
    killer = threading.Timer(0.5, comparer._process.kill)
    killer.start()
    assert not comparer.equal("3x", "x*3")
    killer.join()
    assert comparer.equal("3x", "x*3")


def start_parent(how: str) -> subprocess.Popen:
    command = [sys.executable, "-c", PARENT, how]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_worker_ends_with_its_process():
    parent = start_parent("leave")
    worker = int(parent.communicate()[0])
    assert parent.returncode == 0
    assert wait_until_gone(worker)


def test_worker_ends_when_its_process_is_killed():
    parent = start_parent("stay")
    worker = int(parent.stdout.readline())
    assert is_running(worker)
    parent.kill()
    parent.communicate()
    assert wait_until_gone(worker)


def test_a_forked_child_does_not_keep_the_worker_alive(comparer):
    assert comparer.equal("2x", "x*2")
    pipes = [comparer._process.stdin, comparer._process.stdout]
    ends = {os.readlink(f"/proc/self/fd/{pipe.fileno()}") for pipe in pipes}
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_put_open_pipes, args=(queue, comparer))
    process.start()
    assert not ends & queue.get(timeout=60)
    process.join()
    assert comparer.equal("3x", "x*3")


def _put_open_pipes(queue, comparer) -> None:
    comparer.forget()  # what the module registers for its own comparer
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    queue.put({os.readlink(link) for link in links if os.path.lexists(link)})
