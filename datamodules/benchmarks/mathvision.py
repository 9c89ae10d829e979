"""MathVision: competition problems, half with five options (often drawn in the picture), half free-form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.extract import extract_final_answer
from datamodules.benchmarks.base import IMAGE_PLACEHOLDER, Benchmark, BenchmarkQuestion, Grade
from datamodules.benchmarks.grading import accuracy_by, equal_as_text_or_number, grade_option_or_expression
from datamodules.benchmarks.hub import HubLayout, HubRow
from datamodules.benchmarks.question import OPTION_LETTERS
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import LazyImages, TableRow

_NUMBERED_PLACEHOLDER = re.compile(r"<image\s*\d*>")


class MathVision(Benchmark):
    """The full test split of 3,040 questions, or ``split: testmini`` with 304 of them; reports name the split."""

    name: ClassVar[str] = "MathVision"
    table: ClassVar[str] = "MathVision.tsv"
    hub: ClassVar[HubLayout] = HubLayout(
        ("MathLLMs/MathVision", "mathvision/mathvision"),
        ("id", "question", "options", "answer", "level", "subject"),
        ("decoded_image", "image"),
    )
    releases: ClassVar[Mapping[str, Release]] = {
        "test": Release(
            questions=3040,
            tables=("MathVision.tsv",),
            md5="93f6de14f7916e598aa1b7165589831e",
            composition={"level": {"1": 237, "2": 738, "3": 551, "4": 830, "5": 684}},
        ),
        "testmini": Release(questions=304, tables=("MathVision_MINI.tsv",), md5="060fe4fa5d868987ce179307bd5f8a33"),
    }
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "choices")
    official_differences: ClassVar[Mapping[str, str]] = {
        "box_only": "only the content of the last box counts",
        "text_or_number": "right if equal to the gold letter or to the gold option's value, as text or within 1e-6; "
        "units and symbolic forms are not looked through",
    }
    order: ClassVar[int] = 3

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The same columns, some under other names."""
        values = row.values
        return {
            "index": values["id"],
            "question": values["question"],
            "choices": values["options"],
            "answer": values["answer"],
            "category": values["subject"],
            "level": values["level"],
        }

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
            metadata={
                "subject": row.get("category"),
                "level": row.get("level").removesuffix(".0"),
                "question_type": "multiple-choice" if options else "free-form",
            },
        )

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The letter or the text of the right option; mathematical equality for free-form answers."""
        return grade_option_or_expression(question, response)

    def grade_officially(self, question: BenchmarkQuestion, response: str) -> Grade:
        """What stands in the last box, compared with the gold letter and with the gold option's value."""
        extracted = extract_final_answer(response)
        if extracted.status != "boxed":
            return Grade(False, None, "none")
        accepted = [*question.gold, *(question.options[g] for g in question.gold if g in question.options)]
        is_correct = any(equal_as_text_or_number(extracted.text, gold) for gold in accepted)
        return Grade(is_correct, extracted.text, extracted.status)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by question type, subject and level."""
        metrics = accuracy_by(questions, correct, "question_type") | accuracy_by(questions, correct, "subject")
        return metrics | accuracy_by(questions, correct, "level")
