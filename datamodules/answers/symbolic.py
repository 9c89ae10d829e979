"""Symbolic equality of LaTeX answers with a time limit that holds on every thread and in data loader workers."""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

logger = logging.getLogger(__name__)

SECONDS_TO_START = 120.0
SECONDS_TO_ANSWER = 60.0
"""By the clock on the wall; the worker gives up long before, after seconds of its own computation."""

_WORKER = Path(__file__).with_name("symbolic_worker.py")


class SymbolicComparer:
    """Owns one worker process; it starts at the first question and is replaced when it dies or takes too long.

    May be shared by threads. A forked child, a data loader worker for instance, gets a worker of its own.

    Args:
        seconds_to_answer: Time limit of one comparison; past it the answers count as different.
    """

    def __init__(self, seconds_to_answer: float = SECONDS_TO_ANSWER) -> None:
        self.seconds_to_answer = seconds_to_answer
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, prediction: str, gold: str, *, search: bool = False) -> bool:
        """Whether math-verify holds the two for equal; False when it cannot tell in time, with a warning.

        Args:
            prediction: A formula, or, with ``search``, a text in which math-verify looks for a formula or a number.
            gold: The right answer, given in the same way.
            search: Let math-verify search the texts, as it does by default. Without it each is one formula as a whole.

        Raises:
            RuntimeError: If the worker does not start at all.
        """
        request = json.dumps({"prediction": prediction, "gold": gold, "search": search}).encode() + b"\n"
        with self._lock:
            process = self._running_process()
            assert process.stdin is not None
            try:
                process.stdin.write(request)
            except BrokenPipeError:
                answer = ""
            else:
                answer = self._read_line(process, self.seconds_to_answer)
            if answer not in ("0", "1"):
                logger.warning("no verdict on %r and %r within limits; they count as different", prediction, gold)
            if answer not in ("0", "1", "?"):
                self._stop()
            return answer == "1"

    def forget(self) -> None:
        """Drop the worker without stopping it: after a fork it belongs to the parent process."""
        self._lock = threading.Lock()
        if self._process is not None:
            # Open ends of its pipes in this process would keep the worker from noticing that the parent is gone.
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process.returncode = 0  # so that nobody waits for it here
        self._process = None

    def close(self) -> None:
        """Stop the worker; the next question starts another one."""
        with self._lock:
            self._stop()

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - our own file
                [sys.executable, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # nothing of the parent's may sit in a buffer that a fork copies
            )
            if self._read_line(self._process, SECONDS_TO_START) != "ready":
                self._stop()
                raise RuntimeError(
                    f"the comparison process did not start; run '{sys.executable} -P {_WORKER}' to see why "
                    "(is math-verify with its extra antlr4_13_2 installed?)"
                )
        return self._process

    def _read_line(self, process: subprocess.Popen[bytes], seconds: float) -> str:
        """One line of output without its end; empty when the time is over or the process ends."""
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        poll = select.poll()  # unlike select(), it knows no largest descriptor
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return ""
            piece = os.read(descriptor, 4096)
            if not piece:
                return ""
            line += piece
        return line.decode().strip()

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None


_comparer = SymbolicComparer()
atexit.register(_comparer.close)
os.register_at_fork(after_in_child=_comparer.forget)


def symbolically_equal(prediction: str, gold: str, *, search: bool = False) -> bool:
    """Compare two LaTeX expressions as mathematics in this process's worker; see :meth:`SymbolicComparer.equal`."""
    return _comparer.equal(prediction, gold, search=search)
