"""MMMU, validation split: college questions of 30 subjects, often with several pictures inside the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from datamodules.answers.compare import answers_equal
from datamodules.answers.extract import extract_final_answer
from datamodules.answers.numeric import numeric_answer
from datamodules.benchmarks.base import (
    IMAGE_PLACEHOLDER,
    Benchmark,
    BenchmarkQuestion,
    Grade,
    accuracy_by,
    as_scores,
    grade_option,
    options_of_columns,
    with_options,
)
from datamodules.benchmarks.table import LazyImages, TableRow, parse_list

_NUMBERED_PLACEHOLDER = re.compile(r"<image\s*(\d)>")
_DECIMAL = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class MMMU(Benchmark):
    """Option letters A to I, and open questions with one or more accepted answers (numbers to two decimals)."""

    name: ClassVar[str] = "MMMU"
    table: ClassVar[str] = "MMMU_DEV_VAL.tsv"
    order: ClassVar[int] = 1

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | None:
        """A row of the validation split; rows of the dev split are examples and give None."""
        if row.get("split") not in ("", "validation"):
            return None
        options = options_of_columns(row)
        answer = row.require("answer").strip()
        question = row.require("question")
        if row.get("hint"):
            question = f"{row.get('hint')}\n{question}"
        text, shown = _interleave(with_options(question, options), images, row.where)
        is_list = answer.startswith("[") and answer.endswith("]") and not options
        gold = [str(item) for item in parse_list(answer, f"{row.where}: column 'answer'")] if is_list else [answer]
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=text,
            images=shown,
            gold=tuple(gold),
            options=options,
            answer_type="letter" if options else "expression",
            metadata={key: row.get(key) for key in ("category", "l2-category", "split")},
        )

    def grade(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Letter equality, or equality with any accepted answer; a decimal gold is compared to two decimals."""
        extracted = extract_final_answer(response)
        if question.answer_type == "letter":
            return grade_option(question, extracted)
        answer = extracted.short_text
        is_correct = answer is not None and any(
            answers_equal(answer, gold) or _equal_to_two_decimals(answer, gold) for gold in question.gold
        )
        return Grade(is_correct, answer, extracted.status)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by subject and discipline, of multiple-choice and of open questions."""
        scores = as_scores(questions, correct)
        metrics = accuracy_by(questions, correct, "category", "subject")
        metrics |= accuracy_by(questions, correct, "l2-category", "discipline")
        has_options = np.array([bool(question.options) for question in questions], dtype=bool)
        for label, chosen in (("multiple_choice", has_options), ("open", ~has_options)):
            if chosen.any():
                metrics[label] = float(scores[chosen].mean())
        return metrics


def _interleave(text: str, images: LazyImages, where: str) -> tuple[str, LazyImages]:
    """Replace ``<image 2>`` by ``<image>`` and line the pictures up as named; without any name, all in order."""
    numbers = [int(number) for number in _NUMBERED_PLACEHOLDER.findall(text)]
    if not numbers:
        return text, images
    wrong = [number for number in numbers if not 1 <= number <= len(images)]
    if wrong:
        raise ValueError(
            f"{where}: column 'question' or an option names <image {wrong[0]}>, but there are {len(images)} pictures"
        )
    return _NUMBERED_PLACEHOLDER.sub(IMAGE_PLACEHOLDER, text), images.select([number - 1 for number in numbers])


def _equal_to_two_decimals(answer: str, gold: str) -> bool:
    if not _DECIMAL.fullmatch(gold):
        return False
    target = float(gold.replace(",", ""))
    value = numeric_answer(answer)
    return value is not None and abs(target) >= 0.01 and round(float(value), 2) == round(target, 2)
