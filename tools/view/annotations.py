"""Rows of process supervision: every step with its Monte Carlo score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.storage.bad_rows import BadRows
from datamodules.supervision.row_reader import RowReader, row_readers
from datamodules.supervision.sources import ProcessSource
from tools.view.contents import Question, Solution


def annotated_questions(paths: Sequence[Path], image_root: str | None, limit: int) -> list[Question]:
    """Questions of annotation files; the solutions of a question stand together.

    Args:
        paths: As of :func:`datamodules.supervision.annotation_files.find_annotation_files`.
        image_root: Folder or archive of the pictures; by default that of the files.
        limit: Most questions; every file gives as many as the others, from its beginning.

    Raises:
        FileNotFoundError: If there is nothing at a path.
        ValueError: If no row can be used.
    """
    readers = [reader for reader, _ in row_readers([ProcessSource([str(path) for path in paths])], image_root)]
    bad = BadRows(max_bad_rows=1.0)
    found: list[Question] = []
    for number, reader in enumerate(readers):
        found += _of_file(reader, -(-(limit - len(found)) // (len(readers) - number)), bad)
    if not found:
        raise ValueError(f"{', '.join(map(str, paths))}: holds no rows that can be used{bad.first}")
    bad.report(", ".join(map(str, paths)), len(bad.problems))
    return found


def _of_file(reader: RowReader, limit: int, bad: BadRows) -> list[Question]:
    questions: dict[str, Question] = {}
    for where, row in reader.file.rows():
        parsed = reader.normalised(row, where)
        if parsed["problem"] or isinstance(row, ValueError):
            bad.add(ValueError(parsed["problem"]))
            continue
        key = parsed["question_key"]
        if key not in questions:
            if len(questions) == limit:
                break
            embedded = parsed["image_bytes"] or [None] * len(parsed["images"])
            gold = row.get("answer")
            questions[key] = Question(
                reader.file.source,
                parsed["source"],
                f"row {where.rpartition(':')[2]}",
                parsed["question_bare"],
                [str(gold)] if isinstance(gold, str | int | float) else (),
                [data or name for name, data in zip(parsed["images"], embedded, strict=True)],
            )
        questions[key].solutions.append(_solution(parsed, where))
    return list(questions.values())


def _solution(parsed: dict[str, Any], where: str) -> Solution:
    counts = zip(parsed["num_mc_correct"], parsed["num_mc_total"], strict=True)
    return Solution(
        name=f"row {where.rpartition(':')[2]}",
        steps=parsed["steps"],
        mc=[None if math.isnan(value) else value for value in parsed["mc"]],
        counts=[(correct, total) if total >= 0 else None for correct, total in counts],
    )
