"""Decode the pictures of annotations, each once, in this process or in others."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType

from datamodules.storage.archives import parse_reference
from datamodules.storage.images import ImageError, open_image
from datamodules.storage.worker_processes import WorkerProcesses

MISSING, UNDECODABLE = "missing", "undecodable"
_TASK_IMAGES, _TASK_BYTES = 64, 16 * 2**20


class ImageChecker:
    """Decodes each distinct image once, in worker processes if there are several."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._pool: WorkerProcesses | None = None
        self._seen: set[str] = set()
        self._task: list[tuple[str, str | bytes]] = []
        self._running: deque[Future[dict[str, tuple[str, str]]]] = deque()
        self._problems: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> ImageChecker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def submit(self, key: str, image: str | bytes) -> None:
        """Decode an image, now or later, unless one with this key was submitted before."""
        if key in self._seen:
            return
        self._seen.add(key)
        self._task.append((key, image))
        size = sum(len(each) for _, each in self._task if isinstance(each, bytes))
        if len(self._task) >= _TASK_IMAGES or size >= _TASK_BYTES:
            self._start_task()

    def _start_task(self) -> None:
        task, self._task = self._task, []
        if self.processes <= 1:
            self._problems |= _decode(task)
            return
        if self._pool is None:
            self._pool = WorkerProcesses(self.processes)
        self._running.append(self._pool.submit(_decode, task))
        while len(self._running) > 4 * self.processes:
            self._problems |= self._running.popleft().result()

    def problems(self) -> dict[str, tuple[str, str]]:
        """Kind and reason of unusable images, by key; waits for all submitted images."""
        if self._task:
            self._start_task()
        while self._running:
            self._problems |= self._running.popleft().result()
        return self._problems


def _decode(task: Sequence[tuple[str, str | bytes]]) -> dict[str, tuple[str, str]]:
    problems: dict[str, tuple[str, str]] = {}
    for key, image in task:
        there = isinstance(image, bytes) or parse_reference(image) is not None or os.path.isfile(image)
        try:
            open_image(image, "field 'image'")
        except ImageError as error:
            problems[key] = UNDECODABLE if there else MISSING, str(error)
    return problems
