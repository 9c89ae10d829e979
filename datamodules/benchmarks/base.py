"""What a benchmark is: a table to read, a rule that grades an answer, and units that its headline averages over."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from datamodules.answers.compare import answers_equal
from datamodules.answers.extract import ExtractedAnswer, extract_final_answer
from datamodules.answers.letters import OPTION_LETTERS as OPTION_LETTERS
from datamodules.answers.letters import extract_option
from datamodules.benchmarks.table import LazyImages, TableRow, read_table

logger = logging.getLogger(__name__)

IMAGE_PLACEHOLDER = "<image>"

POLICY_INSTRUCTION = (
    "Reason step by step, one thought a paragraph, with blank lines between paragraphs. "
    "End with your final answer inside \\boxed{}; for a multiple-choice question, put only the option letter there."
)


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question of a benchmark.

    Attributes:
        benchmark: Name of the benchmark.
        question_id: The table's index.
        question: What the policy and the reward model read: options included, no chain-of-thought instruction;
            ``<image>`` placeholders where pictures stand inside the text.
        images: RGB pictures in order, possibly decoded at access; none for a text-only question.
        gold: Accepted answers, at least one.
        options: Letter to text, empty for a free-form question.
        answer_type: "letter", "letters", "integer", "float", "list", "text" or "expression".
        precision: Decimals that a float answer is rounded to, where the benchmark says so.
        metadata: Subject, level, group keys and the like, as the table names them.
    """

    benchmark: str
    question_id: str
    question: str
    images: Sequence[Image.Image]
    gold: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    answer_type: str = "expression"
    precision: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """The verdict on one response.

    Attributes:
        is_correct: Whether the answer counts as right.
        extracted_answer: What was graded and what may vote; None when no answer could be read from the response.
        status: Where the answer was found: "boxed", "tag", "marker", "last_line", "json" or "none".
    """

    is_correct: bool
    extracted_answer: str | None
    status: str


class Benchmark(ABC):
    """Reads, prompts, grades and aggregates one benchmark.

    Attributes:
        name: Name in reports.
        table: Name of the TSV file.
        headline: Name of the headline metric.
        required_columns: Columns that the table must have.
        order: Place in reports; those of the same place follow the alphabet.

    Args:
        table: Another file name than the usual one, for instance of a smaller split.
    """

    name: ClassVar[str]
    table: ClassVar[str]
    headline: ClassVar[str] = "accuracy"
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer")
    order: ClassVar[int] = 100

    def __init__(self, table: str | None = None) -> None:
        self.file_name = table or self.table

    @abstractmethod
    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | None:
        """Make a question of a row; None for a row that the benchmark does not score."""

    @abstractmethod
    def grade(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Read the final answer of a response and judge it by rules alone."""

    def read(self, folder: Path) -> list[BenchmarkQuestion]:
        """Read the benchmark's table.

        Args:
            folder: That holds the table.

        Raises:
            FileNotFoundError: If the table is not there.
            ValueError: If a cell is wrong; names file, line, index and column.
        """
        table = read_table(folder / self.file_name, self.required_columns)
        questions = []
        without_image = 0
        for row in table:
            question = self.parse_row(row, table.images(row))
            if question is None:
                continue
            without_image += not question.images
            self._check(question, row)
            questions.append(question)
        if not questions:
            raise ValueError(f"{table.path}: none of the {len(table)} rows belongs to the scored split of {self.name}")
        if without_image:
            logger.warning("%s: %d questions have no picture and are read as text", table.path, without_image)
        if len(questions) < len(table):
            logger.info("%s: %d of %d rows are scored", table.path, len(questions), len(table))
        return questions

    def _check(self, question: BenchmarkQuestion, row: TableRow) -> None:
        placeholders = question.question.count(IMAGE_PLACEHOLDER)
        if placeholders not in (0, len(question.images)):
            raise ValueError(
                f"{row.where}: column 'question' has {placeholders} {IMAGE_PLACEHOLDER} placeholders "
                f"for {len(question.images)} pictures"
            )
        if question.answer_type == "letter" and question.options and question.gold[0] not in question.options:
            raise ValueError(
                f"{row.where}: column 'answer' is {question.gold[0]!r}, "
                f"but the options are {', '.join(question.options)}"
            )

    def policy_prompt(self, question: BenchmarkQuestion) -> str:
        """The question followed by the request for a boxed answer reached step by step."""
        return f"{question.question}\n{POLICY_INSTRUCTION}"

    def complete_units(self, questions: Sequence[BenchmarkQuestion]) -> np.ndarray:
        """Which questions belong to a unit that is there as a whole: (Q,) bool.

        :meth:`unit_scores` refuses incomplete units, so filter by this when only a part of a benchmark was run.
        """
        return np.ones(len(questions), dtype=bool)

    def unit_scores(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> np.ndarray:
        """Score every unit; the headline is the mean over units. Here a unit is a question.

        Args:
            questions: Q questions.
            correct: (Q,) or (Q, M) verdicts, or probabilities of being right in [0, 1]; the M columns do not interact.

        Returns:
            (U,) or (U, M) float64 in [0, 1].

        Raises:
            ValueError: If the shapes differ or a unit is incomplete.
        """
        return as_scores(questions, correct)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Other numbers that reports of this benchmark give.

        Args:
            questions: Q questions.
            correct: (Q,) bool or float in [0, 1].

        Returns:
            Name to value; a value that is undefined for these questions is left out.
        """
        return {}


def as_scores(questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> np.ndarray:
    """``correct`` as float64 after a check of its length and range.

    Raises:
        ValueError: If it does not have one row a question, or values outside of [0, 1].
    """
    scores = np.asarray(correct, dtype=np.float64)
    if scores.ndim not in (1, 2) or scores.shape[0] != len(questions):
        raise ValueError(f"expected shape ({len(questions)},) or ({len(questions)}, M), got {scores.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("verdicts must lie in [0, 1]; at least one does not, or is NaN")
    return scores


def accuracy_by(
    questions: Sequence[BenchmarkQuestion], correct: np.ndarray, key: str, label: str | None = None
) -> dict[str, float]:
    """Accuracy of every value of a metadata key, as ``"label/value"``; every item of a list counts."""
    scores = as_scores(questions, correct)
    groups: dict[str, list[float]] = {}
    for question, score in zip(questions, scores, strict=True):
        value = question.metadata.get(key)
        values = value if isinstance(value, list | tuple) else [value]
        for name in values:
            if name not in (None, ""):
                groups.setdefault(f"{label or key}/{name}", []).append(float(score))
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}


def options_of_columns(row: TableRow) -> dict[str, str]:
    """The options in the columns A, B, C, ... of a row."""
    return {letter: row.get(letter).strip() for letter in OPTION_LETTERS if row.get(letter).strip()}


def with_options(question: str, options: Mapping[str, str]) -> str:
    """The question followed by one line an option, ``A. text``."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in options.items())])


def grade_option(question: BenchmarkQuestion, extracted: ExtractedAnswer, letters: str = OPTION_LETTERS) -> Grade:
    """Grade a multiple-choice answer: one option letter, or exactly the text of one option."""
    allowed = "".join(question.options) or letters
    letter = extract_option(extracted.text, question.options, allowed)
    return Grade(letter is not None and letter in question.gold, letter, extracted.status)


def grade_expression(question: BenchmarkQuestion, extracted: ExtractedAnswer) -> Grade:
    """Grade a free-form answer that must equal one of the gold answers as mathematics or as text."""
    answer = extracted.short_text
    is_correct = answer is not None and any(answers_equal(answer, gold) for gold in question.gold)
    return Grade(is_correct, answer, extracted.status)


def grade_option_or_expression(question: BenchmarkQuestion, response: str) -> Grade:
    """Grade by the answer type: an option for "letter", an expression otherwise."""
    extracted = extract_final_answer(response)
    if question.answer_type == "letter":
        return grade_option(question, extracted)
    return grade_expression(question, extracted)
