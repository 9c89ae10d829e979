"""LogicVista: logical reasoning over pictures; the gold is a set of option letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from datamodules.answers.extract import extract_final_answer
from datamodules.answers.letters import extract_letters, extract_option
from datamodules.benchmarks.base import (
    OPTION_LETTERS,
    Benchmark,
    BenchmarkQuestion,
    Grade,
    accuracy_by,
    grade_expression,
)
from datamodules.benchmarks.options import options_in_text
from datamodules.benchmarks.table import LazyImages, TableRow


class LogicVista(Benchmark):
    """Sets of letters must be equal; a question without a gold answer is not scored."""

    name: ClassVar[str] = "LogicVista"
    table: ClassVar[str] = "LogicVista.tsv"
    order: ClassVar[int] = 7

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | None:
        """A row; None for the row of the released table whose answer is blank."""
        answer = row.get("answer").strip()
        if not answer:
            return None
        letters = extract_letters(answer, OPTION_LETTERS)
        question = row.require("question")
        gold = ", ".join(sorted(letters)) if letters else answer
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=question,
            images=images,
            gold=(gold,),
            options=options_in_text(question) if letters else {},
            answer_type="letters" if letters else "text",
            metadata={"skill": _skills(row)},
        )

    def grade(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Equal sets of letters, the text of an option standing for its letter; other golds are compared as text."""
        extracted = extract_final_answer(response)
        if question.answer_type == "text":
            return grade_expression(question, extracted)
        single = extract_option(extracted.text, question.options, OPTION_LETTERS)
        letters = {single} if single else extract_letters(extracted.text, OPTION_LETTERS)
        answer = ", ".join(sorted(letters)) or None
        return Grade(answer == question.gold[0], answer, extracted.status)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by skill; a question with several skills counts in each."""
        return accuracy_by(questions, correct, "skill")


def _skills(row: TableRow) -> list[str]:
    text = row.get("skill").strip()
    return row.string_list("skill") if text.startswith("[") else [text] if text else []
