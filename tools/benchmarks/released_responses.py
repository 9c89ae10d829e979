"""Responses that benchmarks' authors released, with the verdicts that they published."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.benchmarks import BENCHMARKS
from datamodules.benchmarks.base import BenchmarkQuestion
from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.mmmu_official import normalized
from datamodules.benchmarks.question import OPTION_LETTERS
from datamodules.benchmarks.table import TableRow, cell_text


@dataclass(frozen=True)
class Released:
    """One released response.

    Attributes:
        question: That it answers.
        response: What the model wrote.
        is_correct: The published verdict.
        is_named: Whether the authors' own reading of the response is an answer, not a guess or a nearest option.
    """

    question: BenchmarkQuestion
    response: str
    is_correct: bool
    is_named: bool = True


def read_mathvision(folder: Path) -> Iterator[tuple[str, list[Released]]]:
    """MATH-V: each line of a model's file has the response and the verdict of the authors' script."""
    questions = {row["id"]: row for row in _json_lines(folder / "test.jsonl")}
    for file in sorted(folder.glob("*.jsonl")):
        if file.stem in ("test", "testmini"):
            continue
        released = []
        for line, row in enumerate(_json_lines(file), 1):
            asked = _known(questions, row["id"], file, line)
            cells = {
                "index": asked["id"],
                "question": asked["question"],
                "choices": asked["options"],
                "answer": asked["answer"],
                "category": asked["subject"],
                "level": asked["level"],
            }
            released.append(Released(_question("MathVision", cells, f"{file}:{line}"), row["response"], row["correct"]))
        yield file.name, released


def read_mathvista(folder: Path) -> Iterator[tuple[str, list[Released]]]:
    """MathVista: an object by pid; the verdict rests on the answer that a judge model cut out of the response.

    Some models were asked before the options of eleven questions were put in another order, or replaced by others. The
    options are those that the query lists: a letter means what the model read.
    """
    questions = _json(folder / "testmini.json")
    for file in sorted(folder.glob("output_*.json")):
        released = []
        for pid, entry in _json(file).items():
            asked = _known(questions, pid, file, pid)
            cells = {name: asked[name] for name in ("question_type", "answer_type", "precision", "unit")}
            cells["choices"] = choices = options_as_asked(entry["query"], asked["choices"] or [], asked["answer"])
            letters = [
                letter for letter, text in zip(OPTION_LETTERS, choices, strict=False) if text == asked["answer"].strip()
            ]
            cells |= {"index": pid, "question": entry["query"], "answer": asked["answer"]}
            cells |= {"answer_option": letters[0]} if letters else {}
            question = _question("MathVista", cells, f"{file}: {pid}")
            question = replace(question, gold=tuple(letters) or question.gold)  # options of one text are one answer
            is_named = not question.options or str(entry["prediction"]).strip() in _named_texts(
                entry["extraction"], question
            )
            released.append(Released(question, entry["response"], entry["true_false"], is_named))
        yield file.name, released


def options_as_asked(query: str, choices: Sequence[str], answer: str) -> list[str]:
    """The options that a query lists at its end.

    Args:
        query: What a model was asked.
        choices: As the benchmark has them now; they are returned where the query does not list so many options, or not
            the right one.
        answer: Text of the right option.
    """
    listed = re.findall(r"^\([A-I]\) (.*)$", query.rpartition("Choices:")[2], re.MULTILINE)
    found, now = ([option.strip() for option in options] for options in (listed, choices))
    return found if len(found) == len(now) and answer.strip() in found else now


def _named_texts(extraction: str, question: BenchmarkQuestion) -> list[str]:
    """Texts of the options that an extraction names: by its letter, in parentheses or not, or by its text."""
    text = extraction.strip()
    letter = text.strip("()").upper()
    named = [question.options[letter]] if letter in question.options else []
    return named + [option for option in question.options.values() if option.casefold() == text.casefold()]


def read_mmmu(folder: Path) -> Iterator[tuple[str, list[Released]]]:
    """MMMU: an object by id, of letters and short answers; no verdict of a single response is published.

    It is computed here: the same letter, or for an open question equal text or number to two decimals.
    """
    golds = _json(folder / "answer_dict_val.json")
    for file in sorted(folder.glob("*_val.json")):
        if file.name == "answer_dict_val.json":
            continue
        released = []
        for key, response in _json(file).items():
            asked = _known(golds, key, file, key)
            is_choice = asked["question_type"] == "multiple-choice"
            gold = asked["ground_truth"]
            texts = tuple(str(item) for item in gold) if isinstance(gold, list) else (str(gold),)
            options = dict.fromkeys(OPTION_LETTERS, "?") if is_choice else {}
            question = BenchmarkQuestion("MMMU", key, "?", (), texts, options, "letter" if is_choice else "expression")
            is_right = response in texts if is_choice else _is_right_openly(response, texts)
            released.append(Released(question, response, is_right))
        yield file.name, released


def _is_right_openly(response: str, golds: Sequence[str]) -> bool:
    return any(set(normalized(response)) & set(normalized(gold)) for gold in golds)


def read_logicvista(folder: Path) -> Iterator[tuple[str, list[Released]]]:
    """LogicVista: responses by id, and a table with what a judge model read from them."""
    questions = _json(folder / "dataset.json")
    for file in sorted(folder.glob("*-answers.json")):
        with file.with_name(file.name.replace("-answers.json", "-accuracy-results.csv")).open(newline="") as table:
            verdicts = {row["id"]: row for row in csv.DictReader(table)}
        released = []
        for key, entry in _json(file).items():
            asked = _known(questions, key, file, key)
            if not asked["answer"].strip():
                continue
            cells = {"index": key, "question": asked["question"], "answer": asked["answer"], "skill": asked["skill"]}
            verdict = _known(verdicts, key, file, key)["match?"] in ("1", "1.0", "True")
            released.append(Released(_question("LogicVista", cells, f"{file}: {key}"), entry["answer"], verdict))
        yield file.name, released


READERS: Mapping[str, Callable[[Path], Iterator[tuple[str, list[Released]]]]] = {
    "mathvision": read_mathvision,
    "mathvista": read_mathvista,
    "mmmu": read_mmmu,
    "logicvista": read_logicvista,
}


def _question(benchmark: str, cells: Mapping[str, object], where: str) -> BenchmarkQuestion:
    row = TableRow({name: cell_text(value) for name, value in cells.items()}, where)
    question = BENCHMARKS[benchmark]().parse_row(row, LazyImages([], []))
    assert isinstance(question, BenchmarkQuestion)
    return replace(question, images=())


def _known(items: Mapping[str, Any], key: str, file: Path, place: object) -> Any:
    if key not in items:
        raise ValueError(f"{file}:{place}: there is no question {key!r} in this folder")
    return items[key]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
