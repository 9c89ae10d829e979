"""GPQA-Diamond: graduate questions of the natural sciences without pictures, with four options each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.extract import extract_final_answer
from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Grade
from datamodules.benchmarks.grading import accuracy_by, grade_option, with_options
from datamodules.benchmarks.hub import HubLayout, HubPart, HubRow
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow

OPTION_SEED = 0
"""Keys the order of the options; rollouts keep the order, and are refused where it is another one."""

ANSWER_COLUMNS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GPQADiamond(Benchmark):
    """Option letters; the dataset gives the right answer first, so the options are put in an order of their own."""

    name: ClassVar[str] = "GPQA-Diamond"
    hub: ClassVar[HubLayout] = HubLayout(("Idavidrein/gpqa",), ("Question", *ANSWER_COLUMNS))
    releases: ClassVar[Mapping[str, Release]] = {"diamond": Release(questions=198)}
    is_text_only: ClassVar[bool] = True
    order: ClassVar[int] = 13

    def hub_parts(self) -> Sequence[HubPart]:
        """The configuration gpqa_diamond, whose only split is called train."""
        return [HubPart("train", "gpqa_diamond")]

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The same columns; a row without a record id gets its number."""
        values = row.values
        cells = {"index": values.get("Record ID") or row.number, "domain": values.get("High-level domain")}
        return cells | {"question": values["Question"]} | {name: values[name] for name in ANSWER_COLUMNS}

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion:
        """A row; texts lose the line breaks at their ends."""
        answers = [row.require(name).strip() for name in ANSWER_COLUMNS]
        order = option_order(row.get("index"), len(answers))
        options = {letter: answers[place] for letter, place in zip("ABCD", order, strict=True)}
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=with_options(row.require("question").strip(), options),
            images=images,
            gold=("ABCD"[order.index(0)],),
            options=options,
            answer_type="letter",
            metadata={"domain": row.get("domain")},
            option_order=order,
        )

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The letter or the text of the right option."""
        return grade_option(question, extract_final_answer(response))

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by domain."""
        return accuracy_by(questions, correct, "domain")


def option_order(question_id: str, count: int) -> tuple[int, ...]:
    """The order of a question's options: by the SHA-256 sum of ``seed/question id/place``, whatever else is read.

    Returns:
        For option A, B, ... its place in the source row, 0 being the right one.
    """
    sums = [hashlib.sha256(f"{OPTION_SEED}/{question_id}/{place}".encode()).digest() for place in range(count)]
    return tuple(sorted(range(count), key=lambda place: sums[place]))
