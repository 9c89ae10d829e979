"""GSM8K, test split: grade-school word problems without pictures, with a number as answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from datamodules.answers.extract import extract_final_answer
from datamodules.answers.numbers import number_value, values_equal
from datamodules.answers.numeric import numeric_answer
from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Grade
from datamodules.benchmarks.hub import HubLayout, HubPart, HubRow
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow

_GOLD = re.compile(r"####\s*(-?[\d,]*\.?\d+)\s*$")
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|(?<![\w.])-?\.\d+")


class GSM8K(Benchmark):
    """Numeric equality of the final number."""

    name: ClassVar[str] = "GSM8K"
    hub: ClassVar[HubLayout] = HubLayout(("openai/gsm8k", "openai/grade-school-math"), ("question", "answer"))
    releases: ClassVar[Mapping[str, Release]] = {"test": Release(questions=1319)}
    is_text_only: ClassVar[bool] = True
    order: ClassVar[int] = 11

    def hub_parts(self) -> Sequence[HubPart]:
        """The configuration main; the other one holds the same questions in another form."""
        return [HubPart("test", "main")]

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The rows have no name of their own and get their number."""
        return {"index": row.number, "question": row.values["question"], "answer": row.values["answer"]}

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion:
        """A row; the gold answer is the number behind ``####``."""
        match = _GOLD.search(row.require("answer"))
        if match is None:
            raise ValueError(f"{row.where}: column 'answer' does not end with '#### ' and a number")
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=row.require("question"),
            images=images,
            gold=(match[1].replace(",", ""),),
            answer_type="float",
        )

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The number of the final-answer cut, the last of several; without any there, the last of the response."""
        extracted = extract_final_answer(response)
        answer, status = extracted.text, str(extracted.status)
        value = numeric_answer(answer)
        if value is None:
            inside = _NUMBER.findall(answer)
            numbers = inside or _NUMBER.findall(response)
            if not numbers:
                return Grade(False, None, "none")
            answer, status = numbers[-1], status if inside else "last_number"
            value = number_value(answer)
        gold = number_value(question.gold[0])
        return Grade(value is not None and gold is not None and values_equal(value, gold), answer, status)
