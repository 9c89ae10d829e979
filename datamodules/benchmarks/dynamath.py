"""DynaMath: 501 seed questions in ten variants each; a seed counts only if all of its variants are right."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from datamodules.answers.extract import ExtractedAnswer, extract_final_answer
from datamodules.answers.numeric import numbers_within, numeric_answer
from datamodules.benchmarks.base import (
    Benchmark,
    BenchmarkQuestion,
    Grade,
    accuracy_by,
    as_scores,
    grade_expression,
    grade_option,
)
from datamodules.benchmarks.options import options_in_text
from datamodules.benchmarks.table import LazyImages, TableRow

VARIANTS = 10
TOLERANCE = 1e-3

_ANSWER_TYPES = {"float": "float", "multiple choice": "letter", "text": "text"}
_LATEX_COMMAND = re.compile(r"(?<!\\)\\(?=[A-Za-z]{2})(?!u[0-9a-fA-F]{4}|n[A-Z])")
_SHORT_ANSWER = re.compile(
    r'"short answer"\s*:\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>-?[\d.]+(?:[eE][+-]?\d+)?))'
)


class DynaMath(Benchmark):
    """Floats within 0.001, option letters, and text; the headline is the worst-case accuracy over seeds."""

    name: ClassVar[str] = "DynaMath"
    table: ClassVar[str] = "DynaMath.tsv"
    headline: ClassVar[str] = "worst_case_accuracy"
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "answer_type", "qid", "varid")
    order: ClassVar[int] = 5

    def read(self, folder: Path) -> list[BenchmarkQuestion]:
        """Read the table; every seed must have its ten variants, a subset would make the worst case look better."""
        questions = super().read(folder)
        incomplete = {
            q.metadata["qid"] for q, whole in zip(questions, self.complete_units(questions), strict=True) if not whole
        }
        if incomplete:
            names = ", ".join(sorted(incomplete)[:5])
            raise ValueError(
                f"{folder / self.file_name}: column 'varid': {len(incomplete)} seeds (qid {names}) "
                f"do not have each of the variants 1 to {VARIANTS} once"
            )
        return questions

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion:
        """A row, with its seed ``qid`` and variant ``varid`` in the metadata."""
        answer_type = _ANSWER_TYPES.get(row.require("answer_type"), "text")
        gold = row.require("answer").strip()
        if answer_type == "float" and numeric_answer(gold) is None:
            raise ValueError(f"{row.where}: column 'answer' is {gold!r}; answer_type float needs a number")
        question = row.require("question")
        options = options_in_text(question) if answer_type == "letter" else {}
        variant = row.require("varid").removesuffix(".0")
        if not variant.isdecimal():
            raise ValueError(f"{row.where}: column 'varid' is {variant!r}; expected 1 to {VARIANTS}")
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=question,
            images=images,
            gold=(gold,),
            options=options if gold in options else {},  # else the text does not list all of them
            answer_type=answer_type,
            metadata={
                "subject": row.get("subject"),
                "level": row.get("knowledge_level"),
                "qid": row.require("qid"),
                "varid": int(variant),
            },
        )

    def grade(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Judge the JSON "short answer" if there is one, else the final-answer cut."""
        short_answer = _json_short_answer(response)
        extracted = extract_final_answer(response)
        if short_answer:
            extracted = ExtractedAnswer(extract_final_answer(short_answer).text, "tag")
        if question.answer_type == "letter":
            grade = grade_option(question, extracted)
        elif question.answer_type == "float":
            grade = _grade_float(question, extracted)
        else:
            grade = grade_expression(question, extracted)
        return Grade(grade.is_correct, grade.extracted_answer, "json") if short_answer else grade

    def complete_units(self, questions: Sequence[BenchmarkQuestion]) -> np.ndarray:
        """Whether a question's seed is there with each of its ten variants once: (Q,) bool."""
        rows = _rows_of_seeds(questions)
        complete = np.zeros(len(questions), dtype=bool)
        for indices in rows.values():
            variants = sorted(questions[i].metadata["varid"] for i in indices)
            complete[indices] = variants == list(range(1, VARIANTS + 1))
        return complete

    def unit_scores(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> np.ndarray:
        """Whether all variants of a seed are right: (U,) or (U, M), seeds in order of first appearance."""
        scores = as_scores(questions, correct)
        complete = self.complete_units(questions)
        if not complete.all():
            seed = questions[int(np.flatnonzero(~complete)[0])].metadata["qid"]
            raise ValueError(f"DynaMath: seed (qid) {seed!r} lacks variants; filter by complete_units first")
        units = [scores[indices].prod(axis=0) for indices in _rows_of_seeds(questions).values()]
        return np.stack(units) if units else scores[:0]

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Average accuracy over rows, robustness (worst case over average), accuracy by subject and level."""
        scores = as_scores(questions, correct)
        metrics = {"average_accuracy": float(scores.mean())} if len(scores) else {}
        complete = self.complete_units(questions)
        if complete.any():
            whole = [question for question, is_whole in zip(questions, complete, strict=True) if is_whole]
            worst, average = self.unit_scores(whole, scores[complete]).mean(), scores[complete].mean()
            if average > 0:
                metrics["robustness"] = float(worst / average)
        return metrics | accuracy_by(questions, correct, "subject") | accuracy_by(questions, correct, "level")


def _rows_of_seeds(questions: Sequence[BenchmarkQuestion]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        rows.setdefault(question.metadata["qid"], []).append(number)
    return rows


def _json_short_answer(response: str) -> str:
    """The last value of a key "short answer", as the official prompt asks for; empty without one."""
    matches = list(_SHORT_ANSWER.finditer(response))
    if not matches:
        return ""
    number, text = matches[-1]["number"], matches[-1]["text"]
    if number:
        return str(number)
    try:
        # A backslash before a word is LaTeX, also where JSON would read the beginning of \\frac as a form feed.
        return str(json.loads(_LATEX_COMMAND.sub(r"\\\\", text), strict=False)).strip()
    except json.JSONDecodeError:
        return str(text[1:-1]).strip()  # LaTeX backslashes are no JSON escapes


def _grade_float(question: BenchmarkQuestion, extracted: ExtractedAnswer) -> Grade:
    if numeric_answer(extracted.text) is None:
        return Grade(False, None, extracted.status)
    return Grade(numbers_within(extracted.text, question.gold[0], TOLERANCE), extracted.text, extracted.status)
