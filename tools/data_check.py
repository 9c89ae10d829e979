"""Read annotations once: statistics by source, and every unusable row with its reason."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from datamodules.batching.lengths import TokenCounter
from datamodules.conversation.steps import steps_to_read
from datamodules.interfaces import RewardModelFacts
from datamodules.supervision.row_reader import row_readers
from datamodules.supervision.sources import process_sources
from tools.image_checker import MISSING, UNDECODABLE, ImageChecker

MC_BINS = ("0", "(0, 1/4]", "(1/4, 1/2]", "(1/2, 3/4]", "(3/4, 1)", "1")
"""Ranges in which Monte Carlo scores are counted."""
_ROUNDED = 0.0051  # a score may have been rounded to two decimals


@dataclass
class SourceReport:
    """Counts of one source.

    Attributes:
        rows: All rows.
        bad_rows: Unusable rows; they are not in the counts below.
        duplicates: Rows with the question, images and steps of an earlier row.
        remarks: Usable rows in which something is odd.
        steps: Steps of usable rows.
        blank_steps: Further steps of theirs that have no text, which only the released white space reads.
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
    remarks: int = 0
    steps: int = 0
    blank_steps: int = 0
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
        remarks: Place of a row that is used, and what is odd about it: a score that contradicts its counts, or a key
            that is there twice.
        empty_files: Files without a row.
    """

    sources: dict[str, SourceReport]
    bad_rows: list[tuple[str, str]]
    duplicates: list[tuple[str, str]]
    images_opened: bool
    remarks: list[tuple[str, str]] = field(default_factory=list)
    empty_files: list[str] = field(default_factory=list)

    @property
    def is_fine(self) -> bool:
        """Whether there is nothing that needs a look; rows that repeat others may be meant."""
        return not (self.bad_rows or self.remarks or self.empty_files)

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
    problem: str = ""  # that a model has with it


def check_data(
    paths: Sequence[Path],
    image_root: str | None = None,
    *,
    look_at_images: bool = True,
    processes: int = 1,
    show_progress: bool = True,
    model: RewardModelFacts | None = None,
) -> DataReport:
    """Read all rows as the data module does, and decode every image that they name.

    Args:
        paths: Paths as in ``train_annotations`` of the data module.
        image_root: Image root as in ``image_root`` of the data module.
        look_at_images: Decode the images, each distinct one once.
        processes: Number of processes that decode images.
        show_progress: Show a progress bar.
        model: Also find what this model cannot read, as `fit` would: special tokens in texts, pictures that its
            processor refuses, and conversations of more tokens than it has positions.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file as a whole, or an archive, cannot be read.
    """
    readers = row_readers(process_sources(paths, None, image_root), image_root)
    checker = ImageChecker(processes)
    look = _Look(model, checker if look_at_images else None)
    rows: list[_Row | tuple[str, str, str]] = []
    empty_files = []
    with checker, tqdm(unit=" rows", disable=not show_progress) as bar:
        for reader, source in readers:
            reader.find.look = look_at_images
            reader.on_repeated_key = look.repeated_key
            bar.set_description(reader.file.source, refresh=False)
            before = len(rows)
            for row in reader:
                bar.update()
                rows.append(look({**row, "max_tiles": source.max_tiles}))
            if len(rows) == before:
                empty_files.append(str(reader.file))
        problems = checker.problems()
    return _report(rows, look, problems, empty_files)


class _Look:
    """Looks at one row after the other, and remembers what it has seen.

    Args:
        model: That is to read the rows, if any.
        checker: Of their pictures, if these are to be opened.
    """

    def __init__(self, model: RewardModelFacts | None, checker: ImageChecker | None) -> None:
        self.checker = checker
        self.duplicates: list[tuple[str, str]] = []
        self.remarks: list[tuple[str, str]] = []
        self._first: dict[bytes, str] = {}
        self._repeated: dict[str, list[str]] = {}
        self._counter: TokenCounter | None = None
        self._most: int | None = None
        if model is not None:
            steps = 1 if model.response_as_one_step else model.max_steps
            self._counter = TokenCounter(model.encoder, steps, look_at_images=checker is not None)
            self._most = model.max_tokens

    def repeated_key(self, place: str, key: str) -> None:
        """Hear of a key that the row at a place has twice."""
        self._repeated.setdefault(place, []).append(key)

    def __call__(self, row: Mapping[str, Any]) -> _Row | tuple[str, str, str]:
        """The facts of a row, or place, source and problem of one that cannot be used."""
        place = row["sample_id"]
        if row["problem"]:
            return place, row["source"], row["problem"].removeprefix(f"{place}: ")
        remarks = [
            f"the key {key!r} is there more than once; the last one counts" for key in self._repeated.pop(place, [])
        ]
        remarks += _contradictions(row)
        self.remarks += [(place, remark) for remark in remarks]
        return self._facts(row, place, bool(remarks))

    def _facts(self, row: Mapping[str, Any], place: str, is_odd: bool) -> _Row:
        key = hashlib.blake2b(
            "\0".join([row["question_key"], *row["steps"]]).encode("utf-8", "surrogatepass"), digest_size=16
        )
        earlier = self._first.setdefault(key.digest(), place)
        kept = steps_to_read(row["steps"], "ours")
        counts = SourceReport(rows=1, duplicates=int(earlier != place), remarks=int(is_odd), steps=len(kept))
        counts.blank_steps = row["blank_steps"]
        if earlier != place:
            self.duplicates.append((place, earlier))
        counts.words = sum(len(step.split()) for step in row["steps"])
        for score in (row["mc"][index] for index in kept):
            if math.isnan(score):
                counts.labels["none"] += 1
            else:
                counts.labels["+" if score > 0 else "-"] += 1
                counts.mc[mc_bin(score)] += 1
        embedded = row["image_bytes"] or [None] * len(row["images"])
        names = tuple(_image_key(name, data) for name, data in zip(row["images"], embedded, strict=True))
        if self.checker is not None:
            for name, path, data in zip(names, row["images"], embedded, strict=True):
                self.checker.submit(name, data if data is not None else path)
        return _Row(place, counts, row["source"], names, self._problem_of_model(row).removeprefix(f"{place}: "))

    def _problem_of_model(self, row: Mapping[str, Any]) -> str:
        if self._counter is None:
            return ""
        (tokens,), (problem,) = self._counter([row])
        if not problem and self._most is not None and tokens > self._most:
            problem = f"the conversation has {tokens} tokens, the model {self._most} positions"
        return problem


def _contradictions(row: Mapping[str, Any]) -> Iterator[str]:
    for score, correct, total in zip(row["mc"], row["num_mc_correct"], row["num_mc_total"], strict=True):
        if total > 0 and abs(score - correct / total) > _ROUNDED:
            yield f"field 'steps_with_score': a score is {score:g}, but {correct} of {total} continuations are right"


def _image_key(name: str, data: bytes | None) -> str:
    return name if data is None else hashlib.sha256(data).hexdigest()


def mc_bin(score: float) -> str:
    """The range of :data:`MC_BINS` of a score."""
    if score in (0.0, 1.0):
        return MC_BINS[0] if score == 0.0 else MC_BINS[-1]
    return MC_BINS[min(math.ceil(score * 4), 4)]


def _report(
    rows: Sequence[_Row | tuple[str, str, str]],
    look: _Look,
    problems: dict[str, tuple[str, str]],
    empty_files: list[str],
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
        broken = next(_broken(row, problems), row.problem)
        if broken:
            report.add(SourceReport(rows=1, bad_rows=1))
            bad.append((row.place, broken))
        else:
            report.add(row.counts)
    for source, names in images.items():
        kinds = Counter(problems[name][0] for name in names if name in problems)
        sources[source].images = len(names)
        sources[source].missing, sources[source].undecodable = kinds[MISSING], kinds[UNDECODABLE]
    left_out = {place for place, _ in bad}
    remarks = [(place, remark) for place, remark in look.remarks if place not in left_out]
    by_source = dict(sorted(sources.items()))
    return DataReport(by_source, bad, look.duplicates, look.checker is not None, remarks, empty_files)


def _broken(row: _Row, problems: dict[str, tuple[str, str]]) -> Iterator[str]:
    return (problems[name][1] for name in row.images if name in problems)
