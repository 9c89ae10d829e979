"""MathVerse, Vision-Only version of testmini: the question itself stands in the picture."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.extract import extract_final_answer
from datamodules.answers.letters import extract_letters
from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Excluded, Grade
from datamodules.benchmarks.cloned import ClonedRepository, ResponseFields
from datamodules.benchmarks.grading import accuracy_by, grade_option_or_expression
from datamodules.benchmarks.hub import HubLayout, HubPart, HubRow
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.question import OPTION_LETTERS
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow

VISION_ONLY, TEXT_ONLY = "Vision Only", "Text Only"
TEXT_ONLY_SPLIT = "testmini_text_only"

_CHOICES = re.compile(r"^\s*choices?\s*:", re.IGNORECASE | re.MULTILINE)
_CHOICE_LINE = re.compile(r"^\s*\(?([A-I])\)?\s*[:.：]\s*(.+?)\s*$", re.MULTILINE)
_LETTER = re.compile(r"[A-I]")
_LETTERS = re.compile(r"[A-I](?:\s*[,\n]\s*[A-I])+")


class MathVerseVisionOnly(Benchmark):
    """The policy and the reward model read the image-only request; the option texts serve for grading alone."""

    name: ClassVar[str] = "MathVerse-VO"
    table: ClassVar[str] = "MathVerse_MINI_Vision_Only.tsv"
    hub: ClassVar[HubLayout] = HubLayout(
        ("AI4Math/MathVerse", "CaraJ/MathVerse-lmmseval"),
        ("sample_index", "problem_version", "question", "answer", "question_type", "metadata", "question_for_eval"),
        ("image", "decoded_image"),
    )
    clone: ClassVar[ClonedRepository] = ClonedRepository(
        "ZrrSkywalker/MathVerse",
        {"testmini": "data/testmini.json", TEXT_ONLY_SPLIT: "data/testmini_text_only.json"},
        ("sample_index", "problem_version", "question", "answer", "question_type", "metadata", "query_wo"),
    )
    releases: ClassVar[Mapping[str, Release]] = {
        "testmini": Release(
            questions=788,
            tables=("MathVerse_MINI_Vision_Only.tsv", "MathVerse_MINIVOnly.tsv"),
            md5="68a11d4680014ac881fa37adeadea3a4",
            composition={"question_type": {"multi-choice": 436, "free-form": 352}},
        ),
        TEXT_ONLY_SPLIT: Release(questions=788, composition={"question_type": {"multi-choice": 436, "free-form": 352}}),
    }
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "question_for_eval")
    official_differences: ClassVar[Mapping[str, str]] = {
        "exact_text": "the final-answer cut must be the gold answer letter by letter (the authors ask a judge model "
        "about the others; no rule of theirs does)",
    }
    response_fields: ClassVar[ResponseFields] = ResponseFields(("sample_index",), "model_answer")
    order: ClassVar[int] = 4

    def hub_parts(self) -> Sequence[HubPart]:
        """All five versions of a problem with its picture are in one split, the texts alone in the other one."""
        return [HubPart(self.split, self.split)]

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The same columns; a question that is empty, since it stands in the picture, gives way to query_wo."""
        kept = ("problem_version", "answer", "question_type", "metadata")
        values = row.values
        asked = (values.get("query_wo"), values["question"])
        question = asked[0] or asked[1] if self.split == TEXT_ONLY_SPLIT else asked[1] or asked[0]
        cells = {"index": values["sample_index"], "question": question}
        cells["question_for_eval"] = values.get("question_for_eval") or values["question"]
        return cells | {name: values[name] for name in kept}

    def hub_images(self, row: HubRow) -> list[Any]:
        """No picture where the text stands alone."""
        return [] if self.split == TEXT_ONLY_SPLIT else super().hub_images(row)

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion | Excluded:
        """A row of the split's version; rows of other versions are not scored."""
        version = row.get("problem_version")
        if version not in ("", TEXT_ONLY if self.split == TEXT_ONLY_SPLIT else VISION_ONLY):
            return Excluded(f"of version {version}")
        asked = row.get("question_for_eval")
        marker = _CHOICES.search(asked)
        full_question = asked[: marker.start()] if marker else asked
        options = dict(_CHOICE_LINE.findall(asked[marker.end() :])) if marker else {}
        written = row.require("answer").strip()
        says_choice = row.get("question_type") == "multi-choice"
        gold = self._gold(written, options, row) if says_choice or not row.get("question_type") else written
        is_choice = gold in options or (says_choice and _LETTER.fullmatch(gold) is not None)
        is_several = says_choice and "," in gold and _LETTERS.fullmatch(written) is not None
        # The request for a direct answer would suppress the reasoning that a process reward model scores.
        question = row.require("question").replace("please directly answer the question and", "please")
        question = question.replace("Please directly answer the question and", "Please")
        metadata = _metadata(row)
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=question,
            images=images,
            gold=(gold,),
            options=options if gold in options or is_several else {},
            answer_type="letters" if is_several else "letter" if is_choice else "expression",
            metadata={
                "subject": metadata.get("subject", ""),
                "subfield": metadata.get("subfield", ""),
                "question_type": row.get("question_type") or ("multi-choice" if is_choice else "free-form"),
                "full_question": full_question.strip(),
                "written_answer": written,
            },
        )

    def _gold(self, written: str, options: Mapping[str, str], row: TableRow) -> str:
        """The letter of the right option, or letters; released answers are "(C)", an option text or two lines, too."""
        bare = written.strip("()")
        if _LETTERS.fullmatch(written):
            return ", ".join(sorted(_LETTER.findall(written)))
        if _LETTER.fullmatch(bare):
            return bare
        letters = [letter for letter, text in options.items() if text == written]
        if len(letters) != 1:
            return written
        self.note("the answer is the text of an option while a letter is asked for; both are right", row)
        return letters[0]

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The letter or text of the right option; mathematical equality, units converted, for free-form answers."""
        if question.answer_type == "letters":
            extracted = extract_final_answer(response)
            answer = ", ".join(sorted(extract_letters(extracted.text, OPTION_LETTERS))) or None
            return Grade(answer == question.gold[0], answer, extracted.status)
        return grade_option_or_expression(question, response)

    def grade_officially(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The authors' comparison of an extracted answer before their judge model is asked."""
        extracted = extract_final_answer(response)
        return _grade_text(question, extracted.text, extracted.status)

    def grade_extraction(self, question: BenchmarkQuestion, response: str, extraction: str) -> Grade:
        """The authors' comparison of the answer that their model extracted."""
        return _grade_text(question, extraction, "extraction")

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by question type, subject and subfield."""
        metrics = accuracy_by(questions, correct, "question_type")
        metrics |= accuracy_by(questions, correct, "subject")
        return metrics | accuracy_by(questions, correct, "subfield")


def _grade_text(question: BenchmarkQuestion, answer: str, status: str) -> Grade:
    answer = answer.strip()
    accepted = (*question.gold, question.metadata.get("written_answer"))
    return Grade(answer in accepted, answer or None, status)


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
