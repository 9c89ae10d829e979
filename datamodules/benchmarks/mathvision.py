"""MathVision: competition problems, half with five options (often drawn in the picture), half free-form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.extract import extract_final_answer
from datamodules.benchmarks import mathvision_official, vlmevalkit
from datamodules.benchmarks.base import IMAGE_PLACEHOLDER, Benchmark, BenchmarkQuestion, Grade, Rules
from datamodules.benchmarks.cloned import ClonedRepository
from datamodules.benchmarks.grading import accuracy_by, grade_option_or_expression
from datamodules.benchmarks.hub import HubLayout, HubRow
from datamodules.benchmarks.latex_value import value_of
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.question import OPTION_LETTERS
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow

TOLERANCE = 1e-6
"""Of VLMEvalKit."""

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
    clone: ClassVar[ClonedRepository] = ClonedRepository(
        "mathllm/MATH-V",
        {"test": "data/test.jsonl", "testmini": "data/testmini.jsonl"},
        ("id", "question", "options", "answer", "level", "subject"),
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
        "fixed_phrases": "the last box counts, else a letter at the beginning or end, a number behind the last 'is', "
        "or what follows 'the answer is'; else the whole response is the answer",
        "two_decimals": "right if equal to the gold letter or to the gold option's text, or if both have a value and "
        "the values are equal to two decimals; LaTeX is looked through, units other than degrees and km are not",
    }
    vlmevalkit_differences: ClassVar[Mapping[str, str]] = {
        "inferred_option": "an option is the only letter among the last four words, a letter behind 'answer is', or "
        "the only option whose text occurs; option values are not compared",
        "six_decimals": "free-form values must agree within 1e-6",
    }
    rules_versions: ClassVar[Mapping[Rules, int]] = {"ours": 3, "official": 2, "vlmevalkit": 3}
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
        """By the script of the authors: see :mod:`datamodules.benchmarks.mathvision_official`."""
        answer = mathvision_official.short_answer(response)
        accepted = [*question.gold, *(question.options[g] for g in question.gold if g in question.options)]
        is_correct = any(mathvision_official.is_equal(gold, answer) for gold in accepted)
        return Grade(is_correct, answer or None, "response" if answer else "none")

    def grade_as_vlmevalkit(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The option that it infers; for free-form answers equal text or value of the response or of the cut."""
        if question.answer_type == "letter":
            return vlmevalkit.grade_choice(question, response)
        cut = extract_final_answer(response).text
        is_correct = any(_is_equal(answer, gold) for gold in question.gold for answer in (response, cut))
        return Grade(is_correct, cut or None, "response" if cut else "none")

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by question type, subject and level."""
        metrics = accuracy_by(questions, correct, "question_type") | accuracy_by(questions, correct, "subject")
        return metrics | accuracy_by(questions, correct, "level")


def _is_equal(answer: str, gold: str) -> bool:
    """VLMEvalKit's comparison of free-form answers: equal text but for case, or values within 1e-6."""
    answer, gold = answer.lower().strip(), gold.lower().strip()
    if answer == gold:
        return True
    values = value_of(answer), value_of(gold)
    return values[0] is not None and values[1] is not None and abs(values[0] - values[1]) < TOLERANCE
