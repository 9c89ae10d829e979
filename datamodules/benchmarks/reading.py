"""Reading of a benchmark's questions: rows of any layout to questions, with a check against the release."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np

from datamodules.benchmarks.cloned import ClonedFile, ResponseFields, cloned_rows
from datamodules.benchmarks.finding import BenchmarkFinder
from datamodules.benchmarks.hub import HubRow, read_rows
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.question import IMAGE_PLACEHOLDER, BenchmarkQuestion, Excluded, SourceRow
from datamodules.benchmarks.released import release_mismatches
from datamodules.benchmarks.table import TableRow, cell_text, read_table
from datamodules.storage.bad_rows import MAX_BAD_ROWS, BadRows, OnBadRow
from datamodules.storage.decoding import broken_pictures
from datamodules.storage.fields import first_of, is_unicode
from datamodules.storage.images import ImageError

logger = logging.getLogger(__name__)

UNUSABLE = "unusable row"
"""Reason that rows are counted by which cannot be used."""

Row = tuple[str, Callable[[], BenchmarkQuestion | Excluded]]
"""Place of a row, and what makes a question of it."""


class BenchmarkReader(BenchmarkFinder, ABC):
    """Reads the questions of one split of a benchmark.

    Attributes:
        response_fields: Of the response files that its authors publish.
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
        max_bad_rows: Likewise.

    Raises:
        ValueError: If the benchmark has no such split.
    """

    response_fields: ClassVar[ResponseFields] = ResponseFields()
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer")
    is_text_only: ClassVar[bool] = False

    def __init__(
        self,
        table: str | None = None,
        split: str | None = None,
        allow_incomplete: bool = False,
        on_bad_row: OnBadRow = "skip",
        on_mismatch: Literal["warn", "error", "ignore"] = "warn",
        max_bad_rows: float = MAX_BAD_ROWS,
    ) -> None:
        super().__init__(table, split)
        self.allow_incomplete = allow_incomplete
        self.on_bad_row = on_bad_row
        self.on_mismatch = on_mismatch
        self.excluded: dict[str, int] = {}
        self.mismatches: list[str] = []
        self.notes: dict[str, list[str]] = {}
        self.unscored_ids: set[str] = set()
        self._missing_images: list[str] | None = None
        self.max_bad_rows = max_bad_rows
        self._bad = BadRows(on_bad_row, max_bad_rows)

    def note(self, remark: str, row: TableRow) -> None:
        """Remember something remarkable about a row that is scored all the same; :meth:`read` gives one notice of it.

        Args:
            remark: What follows the number of rows, for instance "options do not split".
            row: Of the table.
        """
        self.notes.setdefault(remark, []).append(row.where)

    @abstractmethod
    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | Excluded:
        """Make a question of a row of the TSV table."""

    @abstractmethod
    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """What a row of the Hugging Face layout has in the columns of the TSV table, ``index`` included."""

    def hub_images(self, row: HubRow) -> list[Any]:
        """The pictures of a row of the Hugging Face layout: of the first image column that holds something."""
        for column in self.hub.images:
            value = row.values.get(column)
            if value:
                return list(value) if isinstance(value, list) else [value]
        return []

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
        if self._missing_images is None:
            questions = self._with_sound_pictures(questions, excluded)
        self._bad.report(f"{source}: {self.name}", len(questions) + excluded.total())
        questions = self._whole_units(questions, source, excluded)
        if not questions:
            counts = ", ".join(f"{count} {reason}" for reason, count in excluded.items())
            raise ValueError(
                f"{source}: no row is scored in split {self.split!r} of {self.name}: {counts or 'no rows'}"
                f"{self._bad.first}"
            )
        self.excluded = dict(excluded)
        self.mismatches = release_mismatches(self.release, questions, table)
        self._report(questions, source)
        return questions

    def _cloned_rows(self, found: ClonedFile) -> Iterator[Row]:
        assert self.clone is not None
        for row in cloned_rows(found, self.clone, self.split):
            yield row.where, partial(self._parse_hub_row, row)

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
        load = partial(row.images, self.hub_images(row), self._missing_images)
        return self._parse_table_row(table_row, load, is_table=False)

    def _parse_table_row(
        self, row: TableRow, load: Callable[[], LazyImages], is_table: bool = True
    ) -> BenchmarkQuestion | Excluded:
        self.unscored_ids.add(row.get("index"))
        images = load()
        question = self.parse_row(row, images)
        if isinstance(question, BenchmarkQuestion):
            _check(question, row)
            self.unscored_ids.discard(row.get("index"))
            options = {letter: row.get(letter) for letter in ascii_uppercase if row.get(letter)}
            source = SourceRow(row.get("question"), row.get("hint"), options, images, is_table)
            question = replace(question, row=source)
        return question

    def _parse_all(self, rows: Iterator[Row]) -> tuple[list[BenchmarkQuestion], Counter[str]]:
        questions: dict[str, BenchmarkQuestion] = {}
        excluded: Counter[str] = Counter()
        self._bad = BadRows(self.on_bad_row, self.max_bad_rows)
        for where, parse in rows:
            try:
                parsed = parse()
                if isinstance(parsed, BenchmarkQuestion) and parsed.question_id in questions:
                    raise ValueError(f"{where}: another row has the index {parsed.question_id!r} too")
            except ValueError as error:
                self._bad.add(error)
                excluded[UNUSABLE] += 1
                continue
            if isinstance(parsed, Excluded):
                excluded[parsed.reason] += 1
            else:
                questions[parsed.question_id] = parsed
        return list(questions.values()), excluded

    def _with_sound_pictures(
        self, questions: Sequence[BenchmarkQuestion], excluded: Counter[str]
    ) -> list[BenchmarkQuestion]:
        """The questions whose pictures can be decoded; headers have been looked at when their rows were parsed."""
        images = {q.question_id: q.images for q in questions if isinstance(q.images, LazyImages)}
        broken = broken_pictures(source for each in images.values() for source in each.sources)
        sound = []
        for question in questions:
            pictures = images.get(question.question_id, LazyImages([], []))
            pairs = zip(pictures.sources, pictures.places, strict=True)
            if problem := next((f"{place}{broken[source]}" for source, place in pairs if source in broken), ""):
                self._bad.add(ImageError(problem))
                self.unscored_ids.add(question.question_id)
                excluded[UNUSABLE] += 1
            else:
                sound.append(question)
        return sound

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
    if not is_unicode(question.question):
        raise ValueError(f"{row.where}: the question must be valid Unicode (it holds one half of a surrogate pair)")
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
