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
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datamodules.benchmarks import BENCHMARKS, Grade
from tools.benchmarks.released_responses import READERS, Released


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
