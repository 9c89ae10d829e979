"""What every benchmark speaks of: questions, verdicts, and rows that are not scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from datamodules.answers.letters import OPTION_LETTERS as OPTION_LETTERS

IMAGE_PLACEHOLDER = "<image>"

Rules = Literal["ours", "official", "vlmevalkit"]
"""Our rules cut the final answer out and never guess; the official ones are those of the benchmark's authors; the last
ones are those of VLMEvalKit, where they differ from the authors'."""


@dataclass(frozen=True)
class SourceRow:
    """The cells of a question's row as they are in the file, for prompts that are made of them.

    Attributes:
        question: Of the column question.
        hint: Of the column hint; empty where there is none.
        options: Of the columns A to Z, those that hold something.
        images: All pictures of the row, RGB, in the file's order; possibly decoded at access.
        is_table: Whether the file is a table of VLMEvalKit.
    """

    question: str
    hint: str
    options: Mapping[str, str]
    images: Sequence[Image.Image]
    is_table: bool


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question of a benchmark.

    Attributes:
        benchmark: Name of the benchmark.
        question_id: The table's index, or what identifies the row in the Hugging Face layout.
        question: What the policy and the reward model read: options included, no chain-of-thought instruction;
            ``<image>`` placeholders where pictures stand inside the text.
        images: RGB pictures in order, possibly decoded at access; none for a text-only question.
        gold: Accepted answers, at least one.
        options: Letter to text, empty for a free-form question.
        answer_type: "letter", "letters", "integer", "float", "list", "text" or "expression".
        precision: Decimals that a float answer is rounded to, where the benchmark says so.
        metadata: Subject, level, group keys and the like, as the table names them.
        option_order: For options that were shuffled here: the place that option A, B, ... has in the source row, the
            right one being 0. Kept with the rollouts.
        row: Where the question comes from; None for questions that were not read from a file.
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
    option_order: tuple[int, ...] | None = None
    row: SourceRow | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Excluded:
    """A row that a benchmark does not score.

    Attributes:
        reason: In a few words; rows are counted by it.
    """

    reason: str


@dataclass(frozen=True)
class Grade:
    """The verdict on one response.

    Attributes:
        is_correct: Whether the answer counts as right. Official rules that guess can make it so without an answer.
        extracted_answer: What was graded and what may vote; None when no answer could be read from the response.
        status: Where the answer was found: "boxed", "tag", "marker", "last_line", "json", "last_number", "response" (an
            official rule read it from the response as a whole), "extraction" (another tool had read it) or "none".
    """

    is_correct: bool
    extracted_answer: str | None
    status: str
