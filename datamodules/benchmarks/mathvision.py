"""MathVision: competition problems, half with five options (often drawn in the picture), half free-form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from datamodules.benchmarks.base import (
    IMAGE_PLACEHOLDER,
    OPTION_LETTERS,
    Benchmark,
    BenchmarkQuestion,
    Grade,
    accuracy_by,
    grade_option_or_expression,
)
from datamodules.benchmarks.table import LazyImages, TableRow

_NUMBERED_PLACEHOLDER = re.compile(r"<image\s*\d*>")


class MathVision(Benchmark):
    """The full test split of 3,040 questions; ``MathVision("MathVision_MINI.tsv")`` reads the 304 of testmini."""

    name: ClassVar[str] = "MathVision"
    table: ClassVar[str] = "MathVision.tsv"
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "choices")
    order: ClassVar[int] = 3

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion:
        """A row; options that the question does not list itself are added to it."""
        options = dict(zip(OPTION_LETTERS, row.string_list("choices"), strict=False))
        question = row.require("question")
        if _NUMBERED_PLACEHOLDER.search(question):
            count = len(_NUMBERED_PLACEHOLDER.findall(question))
            replacement = IMAGE_PLACEHOLDER if count == len(images) else ""
            question = _NUMBERED_PLACEHOLDER.sub(replacement, question).strip()
        if options and "(A)" not in question and "A." not in question:
            question = "\n".join([question, "Choices:", *(f"({letter}) {text}" for letter, text in options.items())])
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=question,
            images=images,
            gold=(row.require("answer").strip(),),
            options=options,
            answer_type="letter" if options else "expression",
            metadata={"subject": row.get("category"), "level": row.get("level")},
        )

    def grade(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The letter or the text of the right option; mathematical equality for free-form answers."""
        return grade_option_or_expression(question, response)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by subject and level."""
        return accuracy_by(questions, correct, "subject") | accuracy_by(questions, correct, "level")
