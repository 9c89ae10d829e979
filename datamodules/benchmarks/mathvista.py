"""MathVista, testmini: figures, charts and tables, with answers that are options, integers, floats, lists or text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from datamodules.answers.compare import ordered_lists_equal
from datamodules.answers.extract import ExtractedAnswer, extract_final_answer
from datamodules.answers.lists import list_items
from datamodules.answers.normalize import normalize, text_key
from datamodules.answers.numeric import decimals_equal, integers_equal, numeric_answer, read_number
from datamodules.benchmarks import vlmevalkit
from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Grade, Rules
from datamodules.benchmarks.cloned import ClonedRepository, ResponseFields
from datamodules.benchmarks.grading import accuracy_by, grade_expression, grade_option
from datamodules.benchmarks.hub import HubLayout, HubRow
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.question import OPTION_LETTERS
from datamodules.benchmarks.released import Release
from datamodules.benchmarks.table import TableRow

_METADATA_KEYS = ("task", "category", "context", "grade", "source", "language", "skills")


class MathVista(Benchmark):
    """Integers truncated and floats rounded as the authors do, but without the nearest option for other answers."""

    name: ClassVar[str] = "MathVista"
    table: ClassVar[str] = "MathVista_MINI.tsv"
    hub: ClassVar[HubLayout] = HubLayout(
        ("AI4Math/MathVista",),
        ("pid", "question", "answer", "question_type", "answer_type", "choices", "precision", "metadata"),
        ("decoded_image", "image"),
    )
    clone: ClassVar[ClonedRepository] = ClonedRepository(
        "lupantech/MathVista", {"testmini": "data/testmini.json"}, hub.columns
    )
    releases: ClassVar[Mapping[str, Release]] = {
        "testmini": Release(
            questions=1000,
            tables=("MathVista_MINI.tsv",),
            md5="f199b98e178e5a2a20e7048f5dcb0464",
            composition={"question_type": {"multi_choice": 540, "free_form": 460}},
        )
    }
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "question_type", "answer_type", "choices")
    official_differences: ClassVar[Mapping[str, str]] = {
        "nearest_option": "an answer that names no option counts as the one with the smallest edit distance",
        "first_letter": "the first letter in parentheses counts",
        "plain_numbers": "thousands separators, units, fractions and LaTeX are not read as numbers",
        "text_equality": "numbers and lists are compared as text after truncation or rounding",
        "precision_required": "a float question without a precision is always wrong",
    }
    vlmevalkit_differences: ClassVar[Mapping[str, str]] = {
        "inferred_option": "an option is the only letter among the last four words, a letter behind 'answer is', or "
        "the only option whose text occurs; there is no nearest option",
        "python_numbers": "an integer must be written as one (14.0 is none), a float must be equal exactly",
        "no_lists": "a list question is always wrong",
    }
    rules_versions: ClassVar[Mapping[Rules, int]] = {"ours": 3, "official": 4, "vlmevalkit": 3}
    response_fields: ClassVar[ResponseFields] = ResponseFields(("pid",))
    order: ClassVar[int] = 2

    def table_values(self, row: HubRow) -> Mapping[str, Any]:
        """The query holds question, options and hint, and is put together here without it; metadata is a structure."""
        values, metadata = row.values, row.values["metadata"]
        if not isinstance(metadata, Mapping):
            raise ValueError(f"{row.where}: column 'metadata' must be a structure, got {type(metadata).__name__}")
        kept = ("answer", "question_type", "answer_type", "choices", "precision")
        cells = {"index": values["pid"], "question": values.get("query") or _query(row), "unit": values.get("unit")}
        return cells | {name: values[name] for name in kept} | {name: metadata.get(name) for name in _METADATA_KEYS}

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion:
        """A row; the gold of a multiple-choice row is its letter."""
        options = dict(zip(OPTION_LETTERS, row.string_list("choices"), strict=False))
        is_choice = row.require("question_type") == "multi_choice"
        answer_type = "letter" if is_choice else row.require("answer_type")
        if answer_type not in ("letter", "integer", "float", "list", "text"):
            raise ValueError(
                f"{row.where}: column 'answer_type' is {answer_type!r}; known are integer, float, list, text"
            )
        golds = _gold_letters(row, options) if is_choice else (row.require("answer").strip(),)
        gold = golds[0]
        if len(golds) > 1:
            self.note("options with the text of the right one are right, too", row)
        precision = _precision(row, gold) if answer_type == "float" else None
        keys = ("task", "category", "context", "grade", "source", "language", "unit", "question_type")
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=row.require("question"),
            images=images,
            gold=golds,
            options=options if is_choice else {},
            answer_type=answer_type,
            precision=_decimals(gold) if answer_type == "float" and precision is None else precision,
            metadata={key: row.get(key) for key in keys}
            | {"skills": row.string_list("skills"), "has_precision": precision is not None},
        )

    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Letter or exact option text; integers truncated; floats rounded to the precision; lists item by item."""
        extracted = extract_final_answer(response)
        if question.answer_type == "letter":
            return _grade_letter(question, extracted)
        if question.answer_type in ("integer", "float"):
            return _grade_number(question, extracted)
        if question.answer_type == "list":
            return _grade_list(question, extracted)
        return grade_expression(question, extracted)

    def grade_officially(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The authors' normalisation of an extracted answer, which here is the final-answer cut."""
        extracted = extract_final_answer(response)
        return _grade_extraction(question, extracted.text, extracted.status)

    def grade_extraction(self, question: BenchmarkQuestion, response: str, extraction: str) -> Grade:
        """The authors' normalisation of the answer that their judge model extracted."""
        return _grade_extraction(question, extraction, "extraction")

    def grade_as_vlmevalkit(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The option that it infers, or what Python reads as a number, from the response, else from the cut."""
        if question.answer_type == "letter":
            return vlmevalkit.grade_choice(question, response)
        read = {"integer": int, "float": float}.get(question.answer_type)
        for text in (response, extract_final_answer(response).text):
            try:
                values = (read(text), read(question.gold[0])) if read else None
            except ValueError:
                continue
            if values is not None:
                return Grade(values[0] == values[1], str(values[0]), "response")
        return Grade(False, None, "none")

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Accuracy by question type, task and skill."""
        metrics = accuracy_by(questions, correct, "question_type")
        metrics |= accuracy_by(questions, correct, "task")
        return metrics | accuracy_by(questions, correct, "skills", "skill")


def _query(row: HubRow) -> str:
    """What the policy reads where the row does not say: how to answer, the question with its unit, and the options."""
    values = row.values
    question, choices = str(values["question"]), values["choices"] or []
    decimals = {1: "one decimal", 2: "two decimals"}.get(int(values["precision"] or 0), "decimals as precise as asked")
    requests = {
        "integer": "with an integer, such as 7",
        "float": f"with a number with {decimals}",
        "list": "with a list, such as [2, 5]",
    }
    request = "with the letter of the right option" if choices else requests.get(str(values["answer_type"]), "briefly")
    unit = f" (Unit: {values['unit']})" if values.get("unit") else ""
    lines = [f"Hint: Please answer the question {request}, at the end.", f"Question: {question}{unit}"]
    lines += (
        ["Choices:", *(f"({letter}) {text}" for letter, text in zip(OPTION_LETTERS, choices, strict=False))]
        if choices
        else []
    )
    return "\n".join(lines)


def _gold_letters(row: TableRow, options: dict[str, str]) -> tuple[str, ...]:
    """The letter of the right option: column answer_option, else the option that reads as the answer.

    Options with one text are one answer, so each of their letters is right.
    """
    if row.get("answer_option").strip():
        letters = [row.get("answer_option").strip()]
    else:
        answer = row.require("answer")
        exact = [letter for letter, text in options.items() if text == answer]
        key = text_key(normalize(answer))
        letters = exact or [letter for letter, text in options.items() if text_key(normalize(text)) == key]
    texts = {options.get(letter) for letter in letters}
    if len(texts) != 1:
        raise ValueError(
            f"{row.where}: column 'answer' is {row.get('answer')!r}, which is not one of {list(options.values())}"
        )
    equal = tuple(letter for letter, text in options.items() if text in texts)
    return equal or tuple(letters)


def _grade_letter(question: BenchmarkQuestion, extracted: ExtractedAnswer) -> Grade:
    """Grade an option; where several are right since their texts are equal, any letter counts, and as one answer."""
    grade = grade_option(question, extracted)
    if len(question.gold) == 1:
        return grade
    if grade.extracted_answer is None:
        first_only = {text: letter for letter, text in reversed(list(question.options.items()))}
        distinct = {letter: text for letter, text in question.options.items() if first_only[text] == letter}
        grade = grade_option(replace(question, options=distinct), extracted)
    return replace(grade, extracted_answer=question.gold[0]) if grade.is_correct else grade


def _precision(row: TableRow, gold: str) -> int | None:
    """The column precision; None where it is empty."""
    text = row.get("precision").strip()
    if text in ("", "nan", "None"):
        return None
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{row.where}: column 'precision' is {text!r}; expected a number") from error


def _decimals(gold: str) -> int:
    return len(gold.partition(".")[2])


def _grade_number(question: BenchmarkQuestion, extracted: ExtractedAnswer) -> Grade:
    gold = numeric_answer(question.gold[0])
    if gold is None:
        return grade_expression(question, extracted)
    answer = read_number(extracted, question.question)
    if answer is None:
        return Grade(False, None, extracted.status)
    if question.answer_type == "integer":
        return Grade(integers_equal(answer, gold), str(int(answer.value)), extracted.status)
    decimals = question.precision or 0
    return Grade(decimals_equal(answer, gold, decimals), str(round(float(answer.value), decimals)), extracted.status)


def _grade_list(question: BenchmarkQuestion, extracted: ExtractedAnswer) -> Grade:
    items = list_items(extracted.short_text or "")
    if not items:
        return Grade(False, None, extracted.status)
    answer = f"[{', '.join(items)}]"
    return Grade(ordered_lists_equal(answer, question.gold[0]), answer, extracted.status)


def _grade_extraction(question: BenchmarkQuestion, extraction: str, status: str) -> Grade:
    """Judge an extracted answer as the authors do; what names no option has no vote, though the nearest one counts."""
    if question.answer_type == "letter":
        letter = _official_letter(question, extraction.strip())
        is_named = _names_option(extraction, question.options)
        return Grade(letter in question.gold, letter if is_named else None, status)
    answer = _official_text(question, extraction)
    return Grade(answer is not None and answer == question.gold[0], answer, status)


def _named_letter(text: str) -> str:
    """The first letter in parentheses, else the text itself."""
    match = re.search(r"\(([a-zA-Z])\)", text)
    return match[1].upper() if match else text.strip()


def _names_option(text: str, options: Mapping[str, str]) -> bool:
    return _named_letter(text) in options or text.strip() in options.values()


def _official_letter(question: BenchmarkQuestion, text: str) -> str:
    """The option that the answer names, or else the nearest one; the first of equally near ones."""
    named = _named_letter(text)
    if named in question.options:
        return named
    # Imported where it is needed: it takes seconds, which every program that reads or writes a table would pay.
    from torchmetrics.functional.text import edit_distance

    distances = {
        letter: float(edit_distance([named], [option], reduction="sum")) for letter, option in question.options.items()
    }
    return min(distances, key=lambda letter: distances[letter])


def _official_text(question: BenchmarkQuestion, text: str) -> str | None:
    """An answer as the authors compare it with the gold answer; None if it is not of the right type."""
    try:
        if question.answer_type == "integer":
            return str(int(float(text)))
        if question.answer_type == "float":
            return str(round(float(text), question.precision)) if question.metadata["has_precision"] else None
    except (ValueError, OverflowError):
        return None
    return text or None
