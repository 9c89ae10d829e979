"""Rows of process supervision: every step with its Monte Carlo score, and the reward model's if it was scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.batching.collate import merge_scored_steps
from datamodules.conversation.reading_rules import WhiteSpace
from datamodules.storage.bad_rows import BadRows
from datamodules.supervision.consensus import Consensus
from datamodules.supervision.row_reader import RowReader, row_readers
from datamodules.supervision.sources import ProcessSource
from lightning_modules.callbacks.annotation_scores import AnnotationScore, read_annotation_scores
from lightning_modules.metrics.response_score import aggregate_step_scores
from tools.view.contents import Question, Solution

Scores = Mapping[str, Mapping[int, AnnotationScore]]
"""By file, as it was named when it was scored, and by row."""


def annotated_questions(
    paths: Sequence[Path | str],
    image_root: str | None,
    limit: int,
    scores: Path | None = None,
    consensus: Consensus = "monte_carlo",
) -> list[Question]:
    """Questions of annotation files; the solutions of a question stand together.

    Args:
        paths: As of :func:`datamodules.supervision.annotation_files.find_annotation_files`.
        image_root: Folder or archive of the pictures; by default that of the files.
        limit: Most questions; every file gives as many as the others, from its beginning.
        scores: ``annotation_scores.jsonl`` of a reward model: rows without scores are left out.
        consensus: Whose verdicts on steps count, see :mod:`datamodules.supervision.consensus`.

    Raises:
        FileNotFoundError: If there is nothing at a path.
        ValueError: If no row can be used, or the scores are of other rows.
    """
    sources = [ProcessSource([str(path) for path in paths])]
    readers = [reader for reader, _ in row_readers(sources, image_root, consensus=consensus)]
    scored = None if scores is None else _by_file(read_annotation_scores(scores))
    bad = BadRows(max_bad_rows=1.0)
    found: list[Question] = []
    for number, reader in enumerate(readers):
        of_file = None if scored is None else _scores_of(str(reader.file), scored)
        found += _of_file(reader, -(-(limit - len(found)) // (len(readers) - number)), bad, of_file)
    names = ", ".join(map(str, paths))
    if not found and scores is not None:
        raise ValueError(f"{scores}: none of its rows is in {names}; give the annotations that were scored{bad.first}")
    if not found:
        raise ValueError(f"{names}: holds no rows that can be used{bad.first}")
    bad.report(names, len(bad.problems))
    return found


def scored_files(scores: Path) -> list[str]:
    """Paths of the annotation files that some scores are of, for :func:`annotated_questions`."""
    return [_path_of(name) for name in _by_file(read_annotation_scores(scores))]


def _path_of(name: str) -> str:
    """The path of a file by the name that its rows have; one in an archive is named ``archive/member``."""
    archive = next((parent for parent in Path(name).parents if parent.suffix == ".zip"), None)
    return name if archive is None else f"zip://{Path(name).relative_to(archive).as_posix()}::{archive}"


def _by_file(scores: Sequence[AnnotationScore]) -> Scores:
    found: dict[str, dict[int, AnnotationScore]] = {}
    for score in scores:
        file, _, row = score.sample_id.rpartition(":")
        found.setdefault(file, {})[int(row)] = score
    return found


def _scores_of(file: str, scores: Scores) -> Mapping[int, AnnotationScore]:
    """The scores of a file, which may have been moved since, but not renamed."""
    alike = [name for name in scores if Path(name).name == Path(file).name]
    name = file if file in scores else alike[0] if len(alike) == 1 else None
    return {} if name is None else scores[name]


def _of_file(
    reader: RowReader, limit: int, bad: BadRows, scores: Mapping[int, AnnotationScore] | None
) -> list[Question]:
    questions: dict[str, Question] = {}
    for where, row in reader.file.rows():
        score = None if scores is None else scores.get(int(where.rpartition(":")[2]))
        if scores is not None and score is None:
            continue
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
        questions[key].solutions.append(_solution(parsed, where, score))
    return list(questions.values())


def _solution(parsed: dict[str, Any], where: str, score: AnnotationScore | None) -> Solution:
    steps = parsed if score is None else _scored_steps(parsed, where, score)
    mc = _known(steps["mc"])
    counts = zip(steps["num_mc_correct"], steps["num_mc_total"], strict=True)
    return Solution(
        name=f"row {where.rpartition(':')[2]}",
        steps=steps["steps"],
        scores=score.step_scores if score else (),
        mc=mc,
        counts=[(correct, total) if total >= 0 else None for correct, total in counts],
        score=aggregate_step_scores(score.step_scores, "mean") if score else None,
        # What is sampled after the last step is the end of a finished solution: it repeats the answer.
        is_right=None if mc[-1] is None else mc[-1] > 0,
    )


def _scored_steps(parsed: dict[str, Any], where: str, score: AnnotationScore) -> dict[str, list[Any]]:
    """The steps of a row as the model that scored it has merged them, told by their number."""
    white_spaces: tuple[WhiteSpace, ...] = ("ours", "released")
    for white_space in white_spaces:
        for most in range(len(parsed["steps"]), 0, -1):
            steps = merge_scored_steps(parsed, most, white_space)
            if _is_of(steps, score):
                return steps
    raise ValueError(
        f"{score.sample_id}: the scores are of other steps than those at {where}; give the annotations that were scored"
    )


def _is_of(steps: Mapping[str, Sequence[float]], score: AnnotationScore) -> bool:
    known = _known(steps["mc"])
    return len(known) == len(score.mc) and all(
        one is other or (one is not None and other is not None and math.isclose(one, other, abs_tol=1e-6))
        for one, other in zip(known, score.mc, strict=True)
    )


def _known(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
