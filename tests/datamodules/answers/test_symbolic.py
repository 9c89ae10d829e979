"""The comparison process works on other threads, in worker processes and after a time-out."""

import multiprocessing
import threading
import time

from datamodules.answers.symbolic import SymbolicComparer, symbolically_equal


def test_on_another_thread():
    results = []
    threads = [threading.Thread(target=lambda: results.append(symbolically_equal("2x", "x+x"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 3


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


def test_time_limit_counts_as_different_and_the_next_question_is_answered():
    comparer = SymbolicComparer(seconds_to_answer=0.3)
    began = time.monotonic()
    assert not comparer.equal("x 7^{7^{7^{7^{7}}}}", "x")
    assert time.monotonic() - began < 60
    comparer.seconds_to_answer = 30
    assert comparer.equal("a + b", "b + a")
    comparer.close()


def test_dead_worker_is_replaced():
    comparer = SymbolicComparer()
    assert comparer.equal("2x", "x*2")
    comparer._process.kill()
    comparer._process.wait()
    assert comparer.equal("3x", "x*3")
    comparer.close()
