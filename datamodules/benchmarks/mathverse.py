"""MathVerse, Vision-Only version of testmini: the question itself stands in the picture."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from datamodules.benchmarks.base import (
    Benchmark,
    BenchmarkQuestion,
    Grade,
    accuracy_by,
    grade_option_or_expression,
)
from datamodules.benchmarks.table import LazyImages, TableRow

_CHOICE_LINE = re.compile(r"^\s*\(?([A-I])\)?\s*[:.：]\s*(.+?)\s*$", re.MULTILINE)


class MathVerseVisionOnly(Benchmark):
    """The policy and the reward model read the image-only request; the option texts serve for grading alone."""

    name: ClassVar[str] = "MathVerse-VO"
    table: ClassVar[str] = "MathVerse_MINI_Vision_Only.tsv"
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "question_for_eval")
    order: ClassVar[int] = 4

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | None:
        """A Vision-Only row; rows of other versions give None."""
        if row.get("problem_version") not in ("", "Vision Only"):
            return None
        full_question, marker, choices = row.get("question_for_eval").partition("Choices:")
        options = dict(_CHOICE_LINE.findall(choices)) if marker else {}
        gold = row.require("answer").strip()
        # The request for a direct answer would suppress the reasoning that a process reward model scores.
        question = row.require("question").replace("please directly answer the question and", "please")
        metadata = _metadata(row)
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=question,
            images=images,
            gold=(gold,),
            options=options,
            answer_type="letter" if gold in options else "expression",
            metadata={
                "subject": metadata.get("subject", ""),
                "subfield": metadata.get("subfield", ""),
                "question_type": "multi-choice" if gold in options else "free-form",
                "full_question": full_question.strip(),
            },
        )

    def grade(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The letter or text of the right option; mathematical equality, units converted, for free-form answers."""
        return grade_option_or_expression(question, response)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by question type, subject and subfield."""
        metrics = accuracy_by(questions, correct, "question_type")
        metrics |= accuracy_by(questions, correct, "subject")
        return metrics | accuracy_by(questions, correct, "subfield")


def _metadata(row: TableRow) -> dict[str, Any]:
    """The column metadata, which holds the text of a Python dictionary."""
    text = row.get("metadata").strip()
    if not text:
        return {}
    try:
        metadata = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{row.where}: column 'metadata' is not the text of a dictionary: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{row.where}: column 'metadata' is not the text of a dictionary: {text[:80]!r}")
    return metadata
