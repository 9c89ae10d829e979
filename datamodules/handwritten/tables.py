"""Write questions of the miniature world as benchmark tables with the columns of the released ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

from datamodules.benchmarks import BENCHMARKS
from datamodules.benchmarks.table import encode_images, write_table
from datamodules.handwritten.question import OPTION_LETTERS, WorldQuestion

Row = dict[str, str]


def write_benchmark_tables(questions: Mapping[str, Sequence[WorldQuestion]], folder: Path) -> None:
    """Write one table per benchmark, as the benchmark's ``read(folder)`` expects it.

    Args:
        questions: Questions by benchmark name; the index of a row is the question's id.
        folder: Folder to write the tables to.

    Raises:
        ValueError: If a benchmark has no table format here.
    """
    for name, items in questions.items():
        if name not in ROW_WRITERS:
            raise ValueError(f"benchmark {name!r} has no table format here; known are {', '.join(ROW_WRITERS)}")
        write_row = ROW_WRITERS[name]
        write_table(folder / BENCHMARKS[name].table, [write_row(item) for item in items])


def _common(question: WorldQuestion, text: str) -> Row:
    return {
        "index": question.question_id,
        "image": encode_images(question.images),
        "question": text,
        "answer": question.answer,
    }


def _option_columns(question: WorldQuestion, letters: str) -> Row:
    """One column per letter; letters without an option have empty cells."""
    return {letter: "" for letter in letters} | dict(zip(letters, question.options, strict=False))


def _meta(question: WorldQuestion, key: str) -> str:
    return str(question.metadata.get(key, ""))


def _mmmu(question: WorldQuestion) -> Row:
    numbers = count(1)
    text = re.sub("<image>", lambda _: f"<image {next(numbers)}>", question.question)
    row = _common(question, text) | _option_columns(question, OPTION_LETTERS)
    return row | {"category": _meta(question, "subject"), "l2-category": question.family, "split": "validation"}


def _mathvista(question: WorldQuestion) -> Row:
    row = _common(question, question.question_with_options)
    is_choice = bool(question.options)
    if is_choice:
        row["answer"] = question.options[OPTION_LETTERS.index(question.answer)]
    return row | {
        "answer_option": question.answer if is_choice else "",
        "choices": str(list(question.options)),
        "question_type": "multi_choice" if is_choice else "free_form",
        "answer_type": "text" if is_choice else "integer",
        "precision": "",
        "unit": "",
        "task": question.family,
        "skills": str([_meta(question, "subject")]),
    }


def _mathvision(question: WorldQuestion) -> Row:
    row = _common(question, question.question_with_options)
    return row | {
        "choices": str(list(question.options)),
        "category": _meta(question, "subject"),
        "level": _meta(question, "level"),
    }


def _mathverse(question: WorldQuestion) -> Row:
    lines = [f"{letter}:{text}" for letter, text in zip(OPTION_LETTERS, question.options, strict=False)]
    metadata = {"split": "testmini", "subject": _meta(question, "subject"), "subfield": question.family}
    return _common(question, question.question) | {
        "question_for_eval": "\n".join([question.question, "Choices:", *lines]) if lines else question.question,
        "problem_version": "Vision Only",
        "metadata": str(metadata),
    }


def _dynamath(question: WorldQuestion) -> Row:
    return _common(question, question.question_with_options) | {
        "answer_type": "multiple choice" if question.options else "float",
        "subject": _meta(question, "subject"),
        "knowledge_level": _meta(question, "level"),
        "qid": str(question.metadata["seed"]),
        "varid": str(question.metadata["variant"]),
    }


def _wemath(question: WorldQuestion) -> Row:
    row = _common(question, question.question) | _option_columns(question, OPTION_LETTERS)
    return row | {
        "ID": str(question.metadata["group"]),
        "key": str(question.metadata["key"]),
        "question number": _meta(question, "number"),
        "knowledge concept": _meta(question, "subject"),
    }


def _logicvista(question: WorldQuestion) -> Row:
    return _common(question, question.question_with_options) | {"skill": str([_meta(question, "subject")])}


ROW_WRITERS: dict[str, Callable[[WorldQuestion], Row]] = {
    "MMMU": _mmmu,
    "MathVista": _mathvista,
    "MathVision": _mathvision,
    "MathVerse-VO": _mathverse,
    "DynaMath": _dynamath,
    "WeMath": _wemath,
    "LogicVista": _logicvista,
}
