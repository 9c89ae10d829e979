"""Processes that share work, and that end with the one that has started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self


class WorkerProcesses(ProcessPoolExecutor):
    """A pool of processes for a command of which a user may press Ctrl-C, or which may be killed.

    A terminal sends Ctrl-C to all processes of a command. Here only the one that has started the others takes it; left
    by an exception, the pool ends its workers at once and drops what they had not finished. They also end when that
    process has died, for which those of ``ProcessPoolExecutor`` would wait forever.

    Args:
        processes: Number of workers, at least 1.
    """

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        reader, self._writer = context.Pipe(duplex=False)
        super().__init__(processes, context, initializer=_end_with, initargs=(reader,))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let a worker call a function, see ``ProcessPoolExecutor``."""
        # Workers start here and inherit the mask, so that they are deaf to Ctrl-C from their first import on. One that
        # is pressed meanwhile reaches this process below.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._writer.close()
        self.shutdown(cancel_futures=kind is not None)
        self._writer.close()


def _end_with(reader: Connection) -> None:
    """End this process when the other end of a pipe is closed, which also happens when its process dies."""

    def watch() -> None:
        wait([reader])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
