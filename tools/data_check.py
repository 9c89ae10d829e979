"""Read annotations once: statistics by source, and every unusable row with its reason."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from datamodules.storage.archives import parse_reference
from datamodules.storage.images import ImageError, open_image
from datamodules.supervision.row_reader import RowReader, row_readers
from datamodules.supervision.sources import process_sources

MC_BINS = ("0", "(0, 1/4]", "(1/4, 1/2]", "(1/2, 3/4]", "(3/4, 1)", "1")
"""Ranges in which Monte Carlo scores are counted."""
MISSING, UNDECODABLE = "missing", "undecodable"
_TASK_IMAGES, _TASK_BYTES = 64, 16 * 2**20


@dataclass
class SourceReport:
    """Counts of one source.

    Attributes:
        rows: All rows.
        bad_rows: Unusable rows; they are not in the counts below.
        duplicates: Rows with the question, images and steps of an earlier row.
        steps: Steps of usable rows.
        words: White-space separated words of these steps.
        labels: Steps by label at the paper's threshold: "+" (score above 0), "-", and "none" for those without a score.
        mc: Steps with a score by range, see :data:`MC_BINS`.
        images: Distinct images, bad ones included.
        missing: Distinct images that do not exist.
        undecodable: Distinct images that exist and cannot be decoded.
    """

    rows: int = 0
    bad_rows: int = 0
    duplicates: int = 0
    steps: int = 0
    words: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    mc: Counter[str] = field(default_factory=Counter)
    images: int = 0
    missing: int = 0
    undecodable: int = 0

    def add(self, other: SourceReport) -> None:
        """Add another source's counts."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class DataReport:
    """Findings in annotations.

    Attributes:
        sources: Counts by source name.
        bad_rows: Place ``file:row`` and reason, in the order of the files.
        duplicates: Places of a row and of the earlier row that it repeats.
        images_opened: Whether images were opened.
    """

    sources: dict[str, SourceReport]
    bad_rows: list[tuple[str, str]]
    duplicates: list[tuple[str, str]]
    images_opened: bool

    @property
    def total(self) -> SourceReport:
        """The sum over the sources; an image of two sources counts in both."""
        total = SourceReport()
        for report in self.sources.values():
            total.add(report)
        return total


@dataclass(frozen=True)
class _Row:
    """Facts of a readable row, until its images have been opened."""

    place: str
    counts: SourceReport
    source: str
    images: tuple[str, ...]


def check_data(
    paths: Sequence[Path],
    image_root: str | None = None,
    *,
    look_at_images: bool = True,
    processes: int = 1,
    show_progress: bool = True,
) -> DataReport:
    """Read all rows as the data module does, and decode every image that they name.

    Args:
        paths: Paths as in ``train_annotations`` of the data module.
        image_root: Image root as in ``image_root`` of the data module.
        look_at_images: Decode the images, each distinct one once.
        processes: Number of processes that decode images.
        show_progress: Show a progress bar.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file as a whole, or an archive, cannot be read.
    """
    readers = [reader for reader, _ in row_readers(process_sources(paths, None, image_root), image_root)]
    checker = _ImageChecker(processes)
    rows: list[_Row | tuple[str, str, str]] = []
    duplicates: list[tuple[str, str]] = []
    first: dict[bytes, str] = {}
    with checker, tqdm(unit=" rows", disable=not show_progress) as bar:
        for reader in readers:
            reader.find.look = look_at_images
            bar.set_description(reader.file.source, refresh=False)
            for row in reader:
                bar.update()
                rows.append(_kept(row, reader, checker if look_at_images else None, first, duplicates))
        problems = checker.problems()
    return _report(rows, duplicates, problems, look_at_images)


def _kept(
    row: dict[str, Any],
    reader: RowReader,
    checker: _ImageChecker | None,
    first: dict[bytes, str],
    duplicates: list[tuple[str, str]],
) -> _Row | tuple[str, str, str]:
    place = row["sample_id"]
    if row["problem"]:
        return place, row["source"], row["problem"].removeprefix(f"{place}: ")
    key = hashlib.blake2b(
        "\0".join([row["question_key"], *row["steps"]]).encode("utf-8", "surrogatepass"), digest_size=16
    )
    earlier = first.setdefault(key.digest(), place)
    counts = SourceReport(rows=1, duplicates=int(earlier != place), steps=len(row["steps"]))
    if earlier != place:
        duplicates.append((place, earlier))
    counts.words = sum(len(step.split()) for step in row["steps"])
    for score in row["mc"]:
        if math.isnan(score):
            counts.labels["none"] += 1
        else:
            counts.labels["+" if score > 0 else "-"] += 1
            counts.mc[mc_bin(score)] += 1
    embedded = row["image_bytes"] or [None] * len(row["images"])
    names = tuple(_image_key(name, data) for name, data in zip(row["images"], embedded, strict=True))
    if checker is not None:
        for name, path, data in zip(names, row["images"], embedded, strict=True):
            checker.submit(name, data if data is not None else path)
    return _Row(place, counts, row["source"], names)


def _image_key(name: str, data: bytes | None) -> str:
    return name if data is None else hashlib.sha256(data).hexdigest()


def mc_bin(score: float) -> str:
    """The range of :data:`MC_BINS` of a score."""
    if score in (0.0, 1.0):
        return MC_BINS[0] if score == 0.0 else MC_BINS[-1]
    return MC_BINS[min(math.ceil(score * 4), 4)]


class _ImageChecker:
    """Decodes each distinct image once, in worker processes if there are several."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._seen: set[str] = set()
        self._task: list[tuple[str, str | bytes]] = []
        self._running: deque[Future[dict[str, tuple[str, str]]]] = deque()
        self._problems: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> _ImageChecker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

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
            self._pool = ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"))
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


def _report(
    rows: Sequence[_Row | tuple[str, str, str]],
    duplicates: list[tuple[str, str]],
    problems: dict[str, tuple[str, str]],
    images_opened: bool,
) -> DataReport:
    sources: dict[str, SourceReport] = {}
    images: dict[str, set[str]] = {}
    bad: list[tuple[str, str]] = []
    for row in rows:
        if isinstance(row, tuple):
            place, source, reason = row
            sources.setdefault(source, SourceReport()).add(SourceReport(rows=1, bad_rows=1))
            bad.append((place, reason))
            continue
        report = sources.setdefault(row.source, SourceReport())
        images.setdefault(row.source, set()).update(row.images)
        broken = next(_broken(row, problems), None)
        if broken is not None:
            report.add(SourceReport(rows=1, bad_rows=1))
            bad.append((row.place, broken))
        else:
            report.add(row.counts)
    for source, names in images.items():
        kinds = Counter(problems[name][0] for name in names if name in problems)
        sources[source].images = len(names)
        sources[source].missing, sources[source].undecodable = kinds[MISSING], kinds[UNDECODABLE]
    return DataReport(dict(sorted(sources.items())), bad, duplicates, images_opened)


def _broken(row: _Row, problems: dict[str, tuple[str, str]]) -> Iterator[str]:
    return (problems[name][1] for name in row.images if name in problems)
