"""MATH-500: competition problems without pictures, with LaTeX answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.extract import extract_final_answer
from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Grade
from datamodules.benchmarks.grading import accuracy_by, grade_expression
from datamodules.benchmarks.hub import HubLayout, HubRow
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow


class Math500(Benchmark):
    """Mathematical equality of the final answer."""

    name: ClassVar[str] = "MATH-500"
    hub: ClassVar[HubLayout] = HubLayout(
        ("HuggingFaceH4/MATH-500",), ("problem", "answer", "subject", "level", "unique_id")
    )
    releases: ClassVar[Mapping[str, Release]] = {"test": Release(questions=500)}
    is_text_only: ClassVar[bool] = True
    order: ClassVar[int] = 12

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The same columns, some under other names."""
        kept = ("answer", "subject", "level")
        cells = {"index": row.values["unique_id"], "question": row.values["problem"]}
        return cells | {name: row.values[name] for name in kept}

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion:
        """A row, with its subject and level (1 to 5)."""
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=row.require("question"),
            images=images,
            gold=(row.require("answer").strip(),),
            metadata={"subject": row.get("subject"), "level": row.get("level")},
        )

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The final-answer cut must equal the gold answer as mathematics or as text."""
        return grade_expression(question, extract_final_answer(response))

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by subject and level."""
        return accuracy_by(questions, correct, "subject") | accuracy_by(questions, correct, "level")
