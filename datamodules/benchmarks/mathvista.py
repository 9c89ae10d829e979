"""MathVista, testmini: figures, charts and tables, with answers that are options, integers, floats, lists or text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from datamodules.answers.compare import ordered_lists_equal
from datamodules.answers.extract import ExtractedAnswer, extract_final_answer
from datamodules.answers.lists import list_items
from datamodules.answers.normalize import normalize, text_key
from datamodules.answers.numeric import decimals_equal, integers_equal, numeric_answer
from datamodules.benchmarks.base import (
    OPTION_LETTERS,
    Benchmark,
    BenchmarkQuestion,
    Grade,
    accuracy_by,
    grade_expression,
    grade_option,
)
from datamodules.benchmarks.table import LazyImages, TableRow


class MathVista(Benchmark):
    """Graded by the official rules of each answer type, but without the nearest option for unreadable answers."""

    name: ClassVar[str] = "MathVista"
    table: ClassVar[str] = "MathVista_MINI.tsv"
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "question_type", "answer_type", "choices")
    order: ClassVar[int] = 2

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion:
        """A row; the gold of a multiple-choice row is its letter."""
        options = dict(zip(OPTION_LETTERS, row.string_list("choices"), strict=False))
        is_choice = row.require("question_type") == "multi_choice"
        answer_type = "letter" if is_choice else row.require("answer_type")
        if answer_type not in ("letter", "integer", "float", "list", "text"):
            raise ValueError(
                f"{row.where}: column 'answer_type' is {answer_type!r}; known are integer, float, list, text"
            )
        gold = _gold_letter(row, options) if is_choice else row.require("answer").strip()
        keys = ("task", "category", "context", "grade", "source", "language", "unit", "question_type")
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=row.require("question"),
            images=images,
            gold=(gold,),
            options=options if is_choice else {},
            answer_type=answer_type,
            precision=_precision(row, gold) if answer_type == "float" else None,
            metadata={key: row.get(key) for key in keys} | {"skills": row.string_list("skills")},
        )

    def grade(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Letter or exact option text; integers truncated; floats rounded to the precision; lists item by item."""
        extracted = extract_final_answer(response)
        if question.answer_type == "letter":
            return grade_option(question, extracted)
        if question.answer_type in ("integer", "float"):
            return _grade_number(question, extracted)
        if question.answer_type == "list":
            return _grade_list(question, extracted)
        return grade_expression(question, extracted)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by task, skill and question type."""
        metrics = accuracy_by(questions, correct, "task")
        metrics |= accuracy_by(questions, correct, "skills", "skill")
        return metrics | accuracy_by(questions, correct, "question_type")


def _gold_letter(row: TableRow, options: dict[str, str]) -> str:
    """The letter of the right option: column answer_option, else the option that reads as the answer."""
    if row.get("answer_option").strip():
        return row.get("answer_option").strip()
    key = text_key(normalize(row.require("answer")))
    letters = [letter for letter, text in options.items() if text_key(normalize(text)) == key]
    if len(letters) != 1:
        raise ValueError(
            f"{row.where}: column 'answer' is {row.get('answer')!r}, which is not one of {list(options.values())}"
        )
    return letters[0]


def _precision(row: TableRow, gold: str) -> int:
    """Decimals to round to: column precision, else as many as the gold answer has."""
    text = row.get("precision").strip()
    if text in ("", "nan", "None"):
        return len(gold.partition(".")[2])
    try:
        return int(float(text))
    except ValueError as error:
        raise ValueError(f"{row.where}: column 'precision' is {text!r}; expected a number") from error


def _grade_number(question: BenchmarkQuestion, extracted: ExtractedAnswer) -> Grade:
    answer, gold = extracted.text, question.gold[0]
    value = numeric_answer(answer)
    if value is None:
        return Grade(False, None, extracted.status)
    if numeric_answer(gold) is None:
        return grade_expression(question, extracted)
    if question.answer_type == "integer":
        return Grade(integers_equal(answer, gold), str(int(value)), extracted.status)
    decimals = question.precision or 0
    return Grade(decimals_equal(answer, gold, decimals), str(round(float(value), decimals)), extracted.status)


def _grade_list(question: BenchmarkQuestion, extracted: ExtractedAnswer) -> Grade:
    items = list_items(extracted.short_text or "")
    if not items:
        return Grade(False, None, extracted.status)
    answer = f"[{', '.join(items)}]"
    return Grade(ordered_lists_equal(answer, question.gold[0]), answer, extracted.status)
