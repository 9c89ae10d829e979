"""DynaMath: 501 seed questions in ten variants each; a seed counts only if all of its variants are right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.extract import ExtractedAnswer, extract_final_answer
from datamodules.answers.numeric import numbers_within, numeric_answer, read_number
from datamodules.benchmarks import dynamath_official
from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Grade, Rules
from datamodules.benchmarks.cloned import ClonedRepository
from datamodules.benchmarks.dynamath_official import TOLERANCE
from datamodules.benchmarks.grading import accuracy_by, as_scores, grade_expression, grade_option
from datamodules.benchmarks.hub import HubLayout, HubPart, HubRow
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.options import options_in_text
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow

VARIANTS = 10
SEEDS = "seeds"
"""The split of the authors' repository, with one variant of each seed question."""


_VARIANT_SPLIT = "sample_variant"
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
    hub: ClassVar[HubLayout] = HubLayout(
        ("DynaMath/DynaMath_Sample",),
        ("id", "question", "ground_truth", "answer_type", "subject", "knowledge_level"),
        ("decoded_image", "image"),
    )
    clone: ClassVar[ClonedRepository] = ClonedRepository(
        "DynaMath/DynaMath", {SEEDS: "dataset/dataset.json"}, ("question", "answer", "answer_type", "subject", "level")
    )
    releases: ClassVar[Mapping[str, Release]] = {
        "sample": Release(questions=5010, tables=("DynaMath.tsv",), md5="b8425ad9a7114571fc9366e013699494"),
        SEEDS: Release(questions=501),
    }
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "answer_type", "qid", "varid")
    official_differences: ClassVar[Mapping[str, str]] = {
        "json_short_answer": 'the answer is "short answer" of the JSON object between the first and the last brace; '
        "our final-answer cut where there is no such object",
        "plain_float": "a float is what Python reads before the first space, or such a number before the sign π",
        "letter_in_front": "an option is right if its letter stands in the first three characters",
        "gold_inside_text": "a text answer is right if the gold answer is a part of it, capital letters counting",
    }
    vlmevalkit_differences: ClassVar[Mapping[str, str]] = {
        "single_letter_inside": "an option is the only one of the letters A to E that occurs anywhere",
        "text_inside_gold": "a text answer is right if it is a part of the gold answer, also if it is empty",
        "whole_reply": "a text answer without JSON is the whole reply; the cut is not looked at",
    }
    rules_versions: ClassVar[Mapping[Rules, int]] = {"ours": 3, "official": 3, "vlmevalkit": 2}
    order: ClassVar[int] = 5

    @property
    def variants(self) -> int:
        """How many variants of a seed the split has."""
        return 1 if self.split == SEEDS else VARIANTS

    def hub_parts(self) -> Sequence[HubPart]:
        """One split a variant."""
        return [HubPart(f"{_VARIANT_SPLIT}{variant}") for variant in range(1, VARIANTS + 1)]

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The id is that of the seed; the split gives the variant."""
        if self.split == SEEDS:
            values = row.values
            cells = {"index": values.get("id"), "qid": values.get("id"), "varid": "1"}
            kept = ("question", "answer", "answer_type", "subject")
            return cells | {"knowledge_level": values["level"]} | {name: values[name] for name in kept}
        variant = row.part.split.removeprefix(_VARIANT_SPLIT)
        kept = ("question", "answer_type", "subject", "knowledge_level")
        seed = row.values["id"]
        cells = {"index": f"{seed}-{variant}", "answer": row.values["ground_truth"], "qid": seed, "varid": variant}
        return cells | {name: row.values[name] for name in kept}

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
            raise ValueError(f"{row.where}: column 'varid' is {variant!r}; expected 1 to {self.variants}")
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

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
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

    def grade_officially(self, question: BenchmarkQuestion, response: str) -> Grade:
        """By the authors' reading of the JSON reply, see :mod:`datamodules.benchmarks.dynamath_official`."""
        return dynamath_official.grade_as_authors(question, response)

    def grade_as_vlmevalkit(self, question: BenchmarkQuestion, response: str) -> Grade:
        """By VLMEvalKit's reading of the JSON reply; it compares texts the other way round."""
        return dynamath_official.grade_as_vlmevalkit(question, response)

    def complete_units(self, questions: Sequence[BenchmarkQuestion]) -> np.ndarray:
        """Whether a question's seed is there with each of its variants once: (Q,) bool."""
        rows = _rows_of_seeds(questions)
        complete = np.zeros(len(questions), dtype=bool)
        for indices in rows.values():
            variants = sorted(questions[i].metadata["varid"] for i in indices)
            complete[indices] = variants == list(range(1, self.variants + 1))
        return complete

    def incomplete_units(self, questions: Sequence[BenchmarkQuestion]) -> str:
        """Names of the seeds that lack variants, the first five."""
        complete = self.complete_units(questions)
        seeds = {q.metadata["qid"]: None for q, whole in zip(questions, complete, strict=True) if not whole}
        names = ", ".join(list(seeds)[:5])
        return (
            f"{len(seeds)} seeds (qid {names}{', ...' if len(seeds) > 5 else ''}) do not have each of the variants "
            f"(varid) 1 to {self.variants} once, without which a worst case would look better than it is"
        )

    def unit_scores(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> np.ndarray:
        """Whether all variants of a seed are right: (U,) or (U, M), seeds in order of first appearance."""
        scores = as_scores(questions, correct)
        complete = self.complete_units(questions)
        if not complete.all():
            raise ValueError(f"DynaMath: {self.incomplete_units(questions)}; filter by complete_units first")
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
    answer, gold = read_number(extracted, question.question), numeric_answer(question.gold[0])
    if answer is None or gold is None:
        return Grade(False, None, extracted.status)
    # What votes is the text where it is the number, and not a sentence.
    text = extracted.text if numeric_answer(extracted.text) == answer.value else str(float(answer.value))
    return Grade(numbers_within(answer, gold, TOLERANCE), text, extracted.status)
