"""MathVerse, Vision-Only version of testmini: the question itself stands in the picture."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.extract import extract_final_answer
from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Excluded, Grade
from datamodules.benchmarks.grading import accuracy_by, grade_option_or_expression
from datamodules.benchmarks.hub import HubLayout, HubPart, HubRow
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import LazyImages, TableRow

VISION_ONLY = "Vision Only"

_CHOICE_LINE = re.compile(r"^\s*\(?([A-I])\)?\s*[:.：]\s*(.+?)\s*$", re.MULTILINE)
_LETTER = re.compile(r"[A-I]")


class MathVerseVisionOnly(Benchmark):
    """The policy and the reward model read the image-only request; the option texts serve for grading alone."""

    name: ClassVar[str] = "MathVerse-VO"
    table: ClassVar[str] = "MathVerse_MINI_Vision_Only.tsv"
    hub: ClassVar[HubLayout] = HubLayout(
        ("AI4Math/MathVerse", "CaraJ/MathVerse-lmmseval"),
        ("sample_index", "problem_version", "question", "answer", "question_type", "metadata", "question_for_eval"),
        ("image", "decoded_image"),
    )
    releases: ClassVar[Mapping[str, Release]] = {
        "testmini": Release(
            questions=788,
            tables=("MathVerse_MINI_Vision_Only.tsv", "MathVerse_MINIVOnly.tsv"),
            md5="68a11d4680014ac881fa37adeadea3a4",
            composition={"question_type": {"multi-choice": 436, "free-form": 352}},
        )
    }
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "question_for_eval")
    official_differences: ClassVar[Mapping[str, str]] = {
        "exact_text": "the final-answer cut must be the gold answer letter by letter (the authors ask a judge model "
        "about the others; no rule of theirs does)",
    }
    order: ClassVar[int] = 4

    def hub_parts(self) -> Sequence[HubPart]:
        """All five versions of a problem are in one split."""
        return [HubPart("testmini", "testmini")]

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The same columns; a question that is empty, since it stands in the picture, gives way to query_wo."""
        kept = ("problem_version", "answer", "question_type", "metadata", "question_for_eval")
        values = row.values
        question = values["question"] or values.get("query_wo")
        return {"index": values["sample_index"], "question": question} | {name: values[name] for name in kept}

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | Excluded:
        """A Vision-Only row; rows of other versions are not scored."""
        version = row.get("problem_version")
        if version not in ("", VISION_ONLY):
            return Excluded(f"of version {version}")
        full_question, marker, choices = row.get("question_for_eval").partition("Choices:")
        options = dict(_CHOICE_LINE.findall(choices)) if marker else {}
        gold = row.require("answer").strip()
        says_choice = row.get("question_type") == "multi-choice"
        is_choice = gold in options or (says_choice and _LETTER.fullmatch(gold) is not None)
        # The request for a direct answer would suppress the reasoning that a process reward model scores.
        question = row.require("question").replace("please directly answer the question and", "please")
        metadata = _metadata(row)
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=question,
            images=images,
            gold=(gold,),
            options=options if gold in options else {},
            answer_type="letter" if is_choice else "expression",
            metadata={
                "subject": metadata.get("subject", ""),
                "subfield": metadata.get("subfield", ""),
                "question_type": row.get("question_type") or ("multi-choice" if is_choice else "free-form"),
                "full_question": full_question.strip(),
            },
        )

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The letter or text of the right option; mathematical equality, units converted, for free-form answers."""
        return grade_option_or_expression(question, response)

    def grade_officially(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The authors' comparison of an extracted answer before their judge model is asked."""
        extracted = extract_final_answer(response)
        answer = extracted.text.strip()
        return Grade(answer in question.gold, answer or None, extracted.status)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by question type, subject and subfield."""
        metrics = accuracy_by(questions, correct, "question_type")
        metrics |= accuracy_by(questions, correct, "subject")
        return metrics | accuracy_by(questions, correct, "subfield")


def _metadata(row: TableRow) -> dict[str, Any]:
    """The column metadata, which holds the text of a Python dictionary."""
    text = row.get("metadata").strip()
    if not text:
        return {}
    try:
        metadata = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{row.where}: column 'metadata' is not the text of a dictionary: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{row.where}: column 'metadata' is not the text of a dictionary: {text[:80]!r}")
    return metadata
