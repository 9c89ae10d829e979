"""The file of step scores of VisualProcessBench, which a test writes and ``visualprm-view`` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.storage.fields import integer, items, numbers, text
from datamodules.storage.files import atomic_write_jsonl, read_jsonl
from lightning_modules.metrics.step_report import ScoredSolution

STEP_SCORES = "process_bench_scores.jsonl"


@dataclass(frozen=True)
class StepScores:
    """A line of the file.

    Attributes:
        sample_id: ``file:line`` of the solution in ``test.jsonl``.
        source: Dataset of its question.
        step_scores: One score per step.
        correctness: One label per step: 1 correct, -1 wrong, 0 neutral; tells whether another file has the same row.
    """

    sample_id: str
    source: str
    step_scores: list[float]
    correctness: list[int]

    @property
    def line(self) -> int:
        """Line of the solution in ``test.jsonl``, from 1."""
        return int(self.sample_id.rpartition(":")[2])


def write_step_scores(path: Path, solutions: Sequence[ScoredSolution]) -> None:
    """Write the file, whole or not at all."""
    rows = (StepScores(each.sample_id, each.source, each.scores, each.correctness) for each in solutions)
    atomic_write_jsonl(path, map(vars, rows))


def scored_lines(path: Path, labels: str) -> Iterator[tuple[str, dict[str, Any], str, list[float], list[Any]]]:
    """The lines of a file that has, for each solution, as many scores as labels.

    Args:
        path: Of the file.
        labels: Name of the field that holds the labels.

    Yields:
        Place, line, ``sample_id``, step scores, and the labels as they are.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed; names file, line and field.
    """
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        sample_id = text(row, "sample_id", where)
        if not sample_id.rpartition(":")[2].isdecimal():
            raise ValueError(f"{where}: field 'sample_id' must end with the row of the solution, got {sample_id!r}")
        scores, values = numbers(row, "step_scores", where), items(row, labels, where)
        if len(scores) != len(values):
            raise ValueError(f"{where}: {len(scores)} step_scores for {len(values)} values of {labels}")
        yield where, row, sample_id, scores, values


def read_step_scores(path: Path) -> list[StepScores]:
    """Read the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed; names file, line and field. If there is none.
    """
    found = [
        StepScores(
            sample_id,
            text(row, "source", where),
            scores,
            [integer({"correctness": label}, "correctness", where, minimum=-1) for label in labels],
        )
        for where, row, sample_id, scores, labels in scored_lines(path, "correctness")
    ]
    if not found:
        raise ValueError(f"{path} holds no scores; run the test that writes it again")
    return found
