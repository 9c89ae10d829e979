"""Grade the responses that benchmarks' authors released, and compare with the verdicts that they published.

Prints one line a response file::

    python -m tools.benchmarks.released_answers ../shared/real
    python -m tools.benchmarks.released_answers ../shared/real --disagreements disagreements.jsonl

Columns: number of responses; accuracy (%) as published, by the official rules and by ours; agreement of our
verdicts with the published ones (%); false accepts (ours right, published wrong); false rejects (ours wrong, published
right and named by the authors' own reading) with their share of such responses (%). Last lines add up the folders
of several files. Published verdicts are not always right: they rest on a script or on a judge model. `--disagreements`
lists what our rules read.

Folders are read where they exist: mathvision (test.jsonl; one JSONL file a model), mathvista (testmini.json;
output_*.json), mmmu (answer_dict_val.json; llava1.5_13b_val.json, whose options are not released), and logicvista
(dataset.json; *-answers.json with *-accuracy-results.csv).
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from datamodules.benchmarks import BENCHMARKS, Grade
from datamodules.benchmarks.base import BenchmarkQuestion
from datamodules.benchmarks.mmmu_official import normalized
from datamodules.benchmarks.question import OPTION_LETTERS
from datamodules.benchmarks.table import LazyImages, TableRow, cell_text


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


@dataclass(frozen=True)
class Row:
    """One line of the table; counts of responses.

    Attributes:
        file: Folder and name of the response file.
        responses: All of them.
        published: Right as published.
        official: Right by the official rules.
        ours: Right by our rules.
        agreeing: With the published verdict, by our rules.
        false_accepts: Right by ours, wrong as published.
        false_rejects: Wrong by ours, right as published and named.
        named: Right as published and named.
    """

    file: str
    responses: int
    published: int
    official: int
    ours: int
    agreeing: int
    false_accepts: int
    false_rejects: int
    named: int


@dataclass(frozen=True)
class Disagreement:
    """A response on which our verdict is not the published one."""

    file: str
    response: Released
    grade: Grade

    def as_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        question = self.response.question
        return {
            "file": self.file,
            "question_id": question.question_id,
            "answer_type": question.answer_type,
            "gold": list(question.gold),
            "options": dict(question.options),
            "response": self.response.response,
            "published": self.response.is_correct,
            "named": self.response.is_named,
            "ours": self.grade.is_correct,
            "read": self.grade.extracted_answer,
            "status": self.grade.status,
        }


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


def compare(file: str, released: Sequence[Released]) -> tuple[Row, list[Disagreement]]:
    """Grade the responses of a file by both rules."""
    disagreements = []
    counts = dict.fromkeys(("official", "ours", "false_accepts", "false_rejects"), 0)
    for response in released:
        kind = BENCHMARKS[response.question.benchmark]
        grade = kind(rules="ours").grade(response.question, response.response)
        counts["ours"] += grade.is_correct
        counts["official"] += kind(rules="official").grade(response.question, response.response).is_correct
        if grade.is_correct != response.is_correct:
            disagreements.append(Disagreement(file, response, grade))
            counts["false_accepts"] += grade.is_correct
            counts["false_rejects"] += response.is_correct and response.is_named
    right = [response for response in released if response.is_correct]
    row = Row(
        file,
        responses=len(released),
        published=len(right),
        agreeing=len(released) - len(disagreements),
        named=sum(response.is_named for response in right),
        **counts,
    )
    return row, disagreements


def pooled(rows: Sequence[Row]) -> list[Row]:
    """For each folder of several files, the sums of their rows."""
    folders = dict.fromkeys(row.file.partition("/")[0] for row in rows)
    groups = {folder: [row for row in rows if row.file.partition("/")[0] == folder] for folder in folders}
    names = [each.name for each in fields(Row) if each.name != "file"]
    return [
        Row(f"{folder}, all {len(group)}", **{name: sum(getattr(row, name) for row in group) for name in names})
        for folder, group in groups.items()
        if len(group) > 1
    ]


def table(rows: Sequence[Row]) -> str:
    """The rows as text, then the sums of each folder."""
    lines = [
        f"{'file':<46}{'n':>6}{'published':>11}{'official':>10}{'ours':>8}{'agree':>8}{'accepts':>9}{'rejects':>9}"
        f"{'of named':>10}"
    ]
    for row in [*rows, *pooled(rows)]:
        share = row.responses / 100 or 1
        rejects = f"{row.false_rejects / row.named:.1%}" if row.named else "-"
        lines.append(
            f"{row.file:<46}{row.responses:>6}{row.published / share:>11.2f}{row.official / share:>10.2f}"
            f"{row.ours / share:>8.2f}{row.agreeing / share:>8.2f}{row.false_accepts:>9}{row.false_rejects:>9}"
            f"{rejects:>10}"
        )
    return "\n".join(lines)


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


def main() -> None:
    """Print the table, and write the list of disagreements where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds mathvision, mathvista, mmmu, logicvista")
    parser.add_argument("--only", help="a part of the file names to read")
    parser.add_argument("--disagreements", type=Path, help="JSONL file to write")
    arguments = parser.parse_args()
    rows, disagreements = [], []
    for name, read in READERS.items():
        if not (arguments.folder / name).is_dir():
            continue
        for file, released in read(arguments.folder / name):
            if arguments.only and arguments.only not in f"{name}/{file}":
                continue
            row, found = compare(f"{name}/{file}", released)
            rows.append(row)
            disagreements += found
    if not rows:
        parser.error(f"{arguments.folder} holds none of the folders {', '.join(READERS)} with response files")
    print(table(rows))
    if arguments.disagreements:
        lines = (json.dumps(item.as_dict(), ensure_ascii=False) for item in disagreements)
        arguments.disagreements.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
