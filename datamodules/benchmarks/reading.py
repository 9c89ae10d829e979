"""Reading of a benchmark's questions, from a TSV table or a Hugging Face layout, with a check against the release."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np

from datamodules.benchmarks.cloned import ClonedFile, ClonedRepository, ResponseFields, cloned_rows, find_cloned_file
from datamodules.benchmarks.hub import HubLayout, HubPart, HubRow, find_root, possible_roots, read_rows
from datamodules.benchmarks.question import IMAGE_PLACEHOLDER, BenchmarkQuestion, Excluded
from datamodules.benchmarks.released import Release, release_mismatches
from datamodules.benchmarks.table import LazyImages, TableRow, cell_text, read_table
from datamodules.storage.fields import first_of

logger = logging.getLogger(__name__)

UNUSABLE = "unusable row"
"""Reason that rows are counted by which cannot be used."""

Row = tuple[str, Callable[[], BenchmarkQuestion | Excluded]]
"""Place of a row, and what makes a question of it."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """How one benchmark is read.

    Attributes:
        split: Which of its splits; the one of the paper by default.
        table: Another name of the TSV file than the usual ones.
        allow_incomplete: Leave out seeds of DynaMath and groups of We-Math that are not there as a whole, and accept a
            dataset without all of its configurations; otherwise both are errors.
        on_bad_row: Leave out rows that cannot be used, and the units that they belong to, and say how many and which;
            or raise an error at the first one.
        on_mismatch: Warn, or raise an error, when the questions are not those of the release; or say nothing, as for
            questions that are not meant to be. Reports tell it in any case.
    """

    split: str | None = None
    table: str | None = None
    allow_incomplete: bool = False
    on_bad_row: Literal["error", "skip"] = "skip"
    on_mismatch: Literal["warn", "error", "ignore"] = "warn"


class BenchmarkReader(ABC):
    """Finds and reads the questions of one split of a benchmark.

    Attributes:
        name: Name in reports.
        table: Name of the TSV file of the default split; empty where there is no such table.
        hub: Its layout on Hugging Face.
        clone: The repository of its authors, where that holds the questions.
        response_fields: Of the response files that its authors publish.
        releases: Split to what is released of it; the first is the default.
        required_columns: Columns that the TSV table must have.
        is_text_only: Whether its questions have no pictures.
        excluded: After :meth:`read`: why rows were not scored, and how many.
        unscored_ids: After :meth:`read`: ids of the rows that are not scored.
        mismatches: After :meth:`read`: how the questions differ from the release, in words.
        notes: After :meth:`read`: what is remarkable about rows that are scored all the same, and the places of these.

    Args:
        table: See :class:`BenchmarkOptions`, as for the others.
        split: Likewise.
        allow_incomplete: Likewise.
        on_bad_row: Likewise.
        on_mismatch: Likewise.

    Raises:
        ValueError: If the benchmark has no such split.
    """

    name: ClassVar[str]
    table: ClassVar[str] = ""
    hub: ClassVar[HubLayout]
    clone: ClassVar[ClonedRepository | None] = None
    response_fields: ClassVar[ResponseFields] = ResponseFields()
    releases: ClassVar[Mapping[str, Release]]
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer")
    is_text_only: ClassVar[bool] = False

    def __init__(
        self,
        table: str | None = None,
        split: str | None = None,
        allow_incomplete: bool = False,
        on_bad_row: Literal["error", "skip"] = "skip",
        on_mismatch: Literal["warn", "error", "ignore"] = "warn",
    ) -> None:
        by_table = {name: key for key, release in self.releases.items() for name in release.tables}
        self._names_table = table is not None
        self._names_split = split is not None or table is not None
        self._use_split(split or by_table.get(table or "", next(iter(self.releases))))
        self.tables: tuple[str, ...] = (table,) if table else self.release.tables
        self.allow_incomplete = allow_incomplete
        self.on_bad_row = on_bad_row
        self.on_mismatch = on_mismatch
        self.excluded: dict[str, int] = {}
        self.mismatches: list[str] = []
        self.notes: dict[str, list[str]] = {}
        self.unscored_ids: set[str] = set()
        self._missing_images: list[str] | None = None
        self._unusable: list[str] = []

    def _use_split(self, split: str) -> None:
        if split not in self.releases:
            raise ValueError(f"{self.name} has no split {split!r}; known are {', '.join(self.releases)}")
        self.split = split
        self.release = self.releases[split]
        self.tables = self.release.tables

    def note(self, remark: str, row: TableRow) -> None:
        """Remember something remarkable about a row that is scored all the same; :meth:`read` gives one notice of it.

        Args:
            remark: What follows the number of rows, for instance "options do not split".
            row: Of the table.
        """
        self.notes.setdefault(remark, []).append(row.where)

    @property
    def file_name(self) -> str:
        """Usual name of the TSV table; empty where there is none."""
        return self.tables[0] if self.tables else ""

    @abstractmethod
    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | Excluded:
        """Make a question of a row of the TSV table."""

    @abstractmethod
    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """What a row of the Hugging Face layout has in the columns of the TSV table, ``index`` included."""

    def hub_parts(self) -> Sequence[HubPart]:
        """The parts of the dataset that make the split."""
        return [HubPart(self.split)]

    def hub_images(self, row: HubRow) -> list[Any]:
        """The pictures of a row of the Hugging Face layout: of the first image column that holds something."""
        for column in self.hub.images:
            value = row.values.get(column)
            if value:
                return list(value) if isinstance(value, list) else [value]
        return []

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds the benchmark in one of its layouts."""
        return self._find(folder) is not None

    def read(self, folder: Path, images: Literal["needed", "optional"] | None = None) -> list[BenchmarkQuestion]:
        """Read the questions of the split: from the TSV table, the authors' repository, or a copy of the dataset.

        Args:
            folder: That holds the table or the folder of the dataset or repository, or is itself the repository.
            images: What to do about pictures that are not on the disk. "needed": such a row cannot be used. "optional":
                an error comes only when the picture is opened, so that texts can be graded. By default they are needed
                but for the repository's files, which come without pictures.

        Raises:
            FileNotFoundError: If neither is there; names what was looked for.
            ValueError: If a row is wrong (names file, line or row, and column), units are incomplete, or the questions
                are not those of the release; the options say which of these are only counted and reported.
        """
        found = self._find(folder)
        if found is None:
            raise FileNotFoundError(self._not_found(folder))
        table = found if isinstance(found, Path) and found.is_file() else None
        source = found.path if isinstance(found, ClonedFile) else found
        if isinstance(found, ClonedFile) and images == "needed" and self.clone and self.clone.answers_only:
            raise ValueError(
                f"{found.path}: holds the answers of {self.name} alone, to grade responses by; put its table "
                f"or dataset into the folder"
            )
        images = images or ("optional" if isinstance(found, ClonedFile) else "needed")
        self._missing_images = [] if images == "optional" else None
        self.notes, self.unscored_ids = {}, set()
        if isinstance(found, ClonedFile):
            rows = self._cloned_rows(found)
        else:
            rows = self._table_rows(found) if table else self._hub_rows(found)
        questions, excluded = self._parse_all(rows)
        questions = self._whole_units(questions, source, excluded)
        if not questions:
            counts = ", ".join(f"{count} {reason}" for reason, count in excluded.items())
            first = f". The first that cannot be used: {self._unusable[0]}" if self._unusable else ""
            raise ValueError(
                f"{source}: no row is scored in split {self.split!r} of {self.name}: {counts or 'no rows'}{first}"
            )
        self.excluded = dict(excluded)
        self.mismatches = release_mismatches(self.release, questions, table)
        self._report(questions, source)
        return questions

    def _find(self, folder: Path) -> Path | ClonedFile | None:
        """The TSV table, the authors' file, or the folder of the dataset.

        Where none is there, the authors' file of another split is taken unless a split was asked for.
        """
        found = self._table_path(folder) or self._cloned_file(folder, self.split) or self._hub_root(folder)
        if found is not None or self._names_split:
            return found
        for split in self.releases:
            cloned = self._cloned_file(folder, split)
            if cloned is not None:
                logger.warning("%s: %s holds the split %r alone, which is read", self.name, cloned.path, split)
                self._use_split(split)
                return cloned
        return None

    def _cloned_file(self, folder: Path, split: str) -> ClonedFile | None:
        if self.clone is None or self._names_table:
            return None
        return find_cloned_file(folder, self.clone, self.name, split)

    def _cloned_rows(self, found: ClonedFile) -> Iterator[Row]:
        assert self.clone is not None
        for row in cloned_rows(found, self.clone, self.split):
            yield row.where, partial(self._parse_hub_row, row)

    def _table_path(self, folder: Path) -> Path | None:
        return next((folder / name for name in self.tables if (folder / name).is_file()), None)

    def _hub_root(self, folder: Path) -> Path | None:
        return None if self._names_table else find_root(folder, self.hub, self.name)

    def _not_found(self, folder: Path) -> str:
        roots = ", ".join(str(root.relative_to(folder)) for root in possible_roots(folder, self.hub, self.name))
        parts = self.hub_parts()
        files = f"{parts[0]}{' and so on' if len(parts) > 1 else ''}"
        tables = f"the table {' or '.join(self.tables)}, and " if self.tables else ""
        file = self.clone.files.get(self.split) if self.clone else None
        clone = f"{file} of {self.clone.repository}, " if self.clone and file else ""
        return (
            f"{self.name} is not in {folder}; looked for {tables}{clone}a copy of {' or '.join(self.hub.repositories)} "
            f"({files}) in one of the folders {roots}"
        )

    def _table_rows(self, path: Path) -> Iterator[Row]:
        table = read_table(path, self.required_columns, self.on_bad_row)
        for problem in table.problems:
            yield str(path), partial(_raise, problem)
        for row in table:
            yield row.where, partial(self._parse_table_row, row, partial(table.images, row, self._missing_images))

    def _hub_rows(self, root: Path) -> Iterator[Row]:
        found = 0
        for part in self.hub_parts():
            try:
                for row in read_rows(root, part, self.hub.columns):
                    yield row.where, partial(self._parse_hub_row, row)
                found += 1
            except FileNotFoundError as error:
                if not self.allow_incomplete:
                    raise
                logger.warning("%s: %s", self.name, error)
        if not found:
            raise FileNotFoundError(f"{root}: none of the parts of {self.name} is there: {self.hub_parts()[0]}, ...")

    def _parse_hub_row(self, row: HubRow) -> BenchmarkQuestion | Excluded:
        if row.problem:
            raise ValueError(row.problem)
        cells = {name: cell_text(value) for name, value in self.table_values(row).items()}
        if not cells["index"].strip():
            raise ValueError(f"{row.where}: the row has no id; the columns are {sorted(row.values)}")
        table_row = TableRow(cells, f"{row.where} (index {cells['index']})")
        return self._parse_table_row(table_row, lambda: row.images(self.hub_images(row), self._missing_images))

    def _parse_table_row(self, row: TableRow, load: Callable[[], LazyImages]) -> BenchmarkQuestion | Excluded:
        self.unscored_ids.add(row.get("index"))
        question = self.parse_row(row, load())
        if isinstance(question, BenchmarkQuestion):
            _check(question, row)
            self.unscored_ids.discard(row.get("index"))
        return question

    def _parse_all(self, rows: Iterator[Row]) -> tuple[list[BenchmarkQuestion], Counter[str]]:
        questions: dict[str, BenchmarkQuestion] = {}
        excluded: Counter[str] = Counter()
        self._unusable = []
        for where, parse in rows:
            try:
                parsed = parse()
                if isinstance(parsed, BenchmarkQuestion) and parsed.question_id in questions:
                    raise ValueError(f"{where}: another row has the index {parsed.question_id!r} too")
            except ValueError as error:
                if self.on_bad_row == "error":
                    raise
                self._unusable.append(str(error))
                excluded[UNUSABLE] += 1
                continue
            if isinstance(parsed, Excluded):
                excluded[parsed.reason] += 1
            else:
                questions[parsed.question_id] = parsed
        if self._unusable:
            listed = first_of(self._unusable, "; ")
            logger.warning("%s: %d rows cannot be used and are left out: %s", self.name, len(self._unusable), listed)
        return list(questions.values()), excluded

    def _whole_units(
        self, questions: list[BenchmarkQuestion], source: Path, excluded: Counter[str]
    ) -> list[BenchmarkQuestion]:
        complete = self.complete_units(questions)
        if complete.all():
            return questions
        if not self.allow_incomplete and not excluded[UNUSABLE]:
            raise ValueError(f"{source}: {self.incomplete_units(questions)}")
        excluded["incomplete unit"] += int((~complete).sum())
        logger.warning("%s: left out: %s", source, self.incomplete_units(questions))
        return [question for question, is_whole in zip(questions, complete, strict=True) if is_whole]

    def _report(self, questions: Sequence[BenchmarkQuestion], source: Path) -> None:
        without_image = sum(not question.images for question in questions)
        if without_image and not self.is_text_only:
            logger.warning("%s: %d questions have no picture and are read as text", source, without_image)
        if self.excluded:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.excluded.items())
            logger.info("%s: %d questions are scored; rows left out: %s", source, len(questions), counts)
        for remark, places in self.notes.items():
            logger.warning("%s: %d rows: %s: %s", source, len(places), remark, first_of(places))
        if self._missing_images:
            missing = first_of(self._missing_images)
            logger.warning("%s: %d pictures are not on the disk: %s", source, len(self._missing_images), missing)
        if self.mismatches:
            message = (
                f"{source}: not the released {self.split} split of {self.name}, so scores do not compare with "
                f"published ones: {'; '.join(self.mismatches)}"
            )
            if self.on_mismatch == "error":
                raise ValueError(message)
            if self.on_mismatch == "warn":
                logger.warning(message)

    def complete_units(self, questions: Sequence[BenchmarkQuestion]) -> np.ndarray:
        """Which questions belong to a unit that is there as a whole: (Q,) bool.

        :meth:`unit_scores` refuses incomplete units, so filter by this when only a part of a benchmark was run.
        """
        return np.ones(len(questions), dtype=bool)

    def incomplete_units(self, questions: Sequence[BenchmarkQuestion]) -> str:
        """Which units are incomplete, in words for a message."""
        raise NotImplementedError(f"{self.name} has units of one question")


def _raise(problem: ValueError) -> NoReturn:
    raise problem


def _check(question: BenchmarkQuestion, row: TableRow) -> None:
    placeholders = question.question.count(IMAGE_PLACEHOLDER)
    if placeholders not in (0, len(question.images)):
        raise ValueError(
            f"{row.where}: column 'question' has {placeholders} {IMAGE_PLACEHOLDER} placeholders "
            f"for {len(question.images)} pictures"
        )
    if question.answer_type == "letter" and question.options and question.gold[0] not in question.options:
        raise ValueError(
            f"{row.where}: column 'answer' is {question.gold[0]!r}, but the options are {', '.join(question.options)}"
        )
