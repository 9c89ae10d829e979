"""LogicVista: logical reasoning over pictures; the gold is a set of option letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.choice import read_option
from datamodules.answers.extract import extract_final_answer
from datamodules.answers.letters import extract_letters
from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Excluded, Grade, Rules
from datamodules.benchmarks.cloned import ClonedRepository, ResponseFields
from datamodules.benchmarks.grading import accuracy_by, grade_expression
from datamodules.benchmarks.hub import HubLayout, HubRow
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.options import options_in_text
from datamodules.benchmarks.question import OPTION_LETTERS
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow, parse_list

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

ASSISTANT = "ASSISTANT:"
"""Begins the reply in the responses of some released models."""


class LogicVista(Benchmark):
    """Sets of letters must be equal; a question without a gold answer is not scored."""

    name: ClassVar[str] = "LogicVista"
    table: ClassVar[str] = "LogicVista.tsv"
    hub: ClassVar[HubLayout] = HubLayout(
        ("lscpku/LogicVista", "Yijia-Xiao/LogicVista"), ("question", "answer", "skill"), ("image",)
    )
    clone: ClassVar[ClonedRepository] = ClonedRepository(
        "Yijia-Xiao/LogicVista", {"test": "data/dataset.json"}, ("imagename", "question", "answer", "skill")
    )
    releases: ClassVar[Mapping[str, Release]] = {
        "test": Release(
            questions=447,
            tables=("LogicVista.tsv",),
            md5="41c5d33adf33765c399e0e6ae588c061",
            composition={
                "skill": {"inductive": 107, "deductive": 93, "numerical": 95, "spatial": 78, "mechanical": 74}
            },
        )
    }
    official_differences: ClassVar[Mapping[str, str]] = {
        "assistant_turn": "only what follows the first 'ASSISTANT:' is read",
        "letters_as_listed": "the letters that the authors' judge model lists must be those of the gold answer, each "
        "as often; where its list is not given, ours is taken",
    }
    vlmevalkit_differences: ClassVar[Mapping[str, str]] = {
        "letters_only": "the final-answer cut must be capital letters and nothing else, as its judge model writes "
        "them; option texts and separators are not read",
        "no_other_golds": "a gold answer that is no letter can never be reached",
    }
    rules_versions: ClassVar[Mapping[Rules, int]] = {"ours": 3, "official": 3, "vlmevalkit": 2}
    response_fields: ClassVar[ResponseFields] = ResponseFields(response="answer")
    order: ClassVar[int] = 7

    def hub_images(self, row: HubRow) -> list[Any]:
        """The column image or imagename; or imagesource, which is a web site's name in the authors' file, if a path."""
        values = row.values
        names = [values.get("imagename"), values.get("imagesource")]
        named = [name for name in names if name and Path(str(name)).suffix.lower() in _PICTURE_SUFFIXES]
        return super().hub_images(row) or named[:1]

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The same columns."""
        kept = ("question", "answer", "skill")
        return {"index": row.values.get("id") or row.number} | {name: row.values[name] for name in kept}

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | Excluded:
        """A row; the released data has one whose answer is blank, which is not scored."""
        answer = row.get("answer").strip()
        if not answer:
            return Excluded("without an answer")
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

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Equal sets of letters, the text of an option standing for its letter; other golds are compared as text."""
        extracted = extract_final_answer(response)
        if question.answer_type == "text":
            return grade_expression(question, extracted)
        single = read_option(extracted, question.options, OPTION_LETTERS, question.question)
        several = extract_letters(extracted.text, OPTION_LETTERS)
        letters = {single} if single else several if len(several) > 1 else frozenset()
        answer = ", ".join(sorted(letters)) or None
        return Grade(answer == question.gold[0], answer, extracted.status)

    def grade_officially(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The authors' comparison of sorted letters; our list takes the place of their judge model's."""
        _, marker, assistant = response.partition(ASSISTANT)
        return self.grade_by_our_rules(question, assistant.split(ASSISTANT)[0] if marker else response)

    def grade_extraction(self, question: BenchmarkQuestion, response: str, extraction: str) -> Grade:
        """The authors' comparison of the letters that their judge model listed, as a list's text or with commas."""
        try:
            items = parse_list(extraction, "extraction") if extraction.startswith("[") else extraction.split(", ")
        except ValueError:  # a bracket, but no list: a wrong answer, which must not end the others
            items = [extraction]
        answers = sorted(str(item).lower() for item in items)
        gold = sorted(part.lower() for part in question.gold[0].split(", "))
        return Grade(answers == gold, ", ".join(answers).upper() or None, "extraction")

    def grade_as_vlmevalkit(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Its comparison of sorted letters, which must be capital ones and nothing else; the cut is what is read."""
        extracted = extract_final_answer(response)
        if not (extracted.text.isalpha() and extracted.text.isupper()):
            return Grade(False, None, "none")
        gold = sorted(part.strip().lower() for part in question.gold[0].split(","))
        return Grade(sorted(extracted.text.lower()) == gold, extracted.text, extracted.status)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by skill; a question with several skills counts in each."""
        return accuracy_by(questions, correct, "skill")


def _skills(row: TableRow) -> list[str]:
    text = row.get("skill").strip()
    return row.string_list("skill") if text.startswith("[") else [text] if text else []
