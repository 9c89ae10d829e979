"""One table of all seeds of a recipe: a row for each, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_modules.metrics.table import Table
from tools.report.numbers import Entry, Number, ReportTable, Row
from tools.report.results import BEST_OF_N, RunResult

REPORT = Path("process_reward_model_test", BEST_OF_N)
"""Where a run of the quickstart keeps its Best-of-N report."""


def seed_rows(entry: Entry, column: str = "all_questions") -> ReportTable:
    """Accuracies of the methods and paired differences at the largest N: a row for each seed, and the mean of several.

    Args:
        entry: A reward model with its results on all seeds.
        column: ``all_questions``, ``overall`` or a benchmark.

    Raises:
        ValueError: If the seeds compare other methods or another number of solutions; names the folder.
    """
    shapes = [_shape(result, column) for result in entry.results]
    for result, shape in zip(entry.results, shapes, strict=True):
        if shape != shapes[0]:
            where = f"{result.folder} and {entry.first.folder}"
            raise ValueError(f"{where}: one compares other methods or numbers of solutions than the other")
    methods, differences, largest = shapes[0]

    def numbers(part: Entry) -> list[Number | None]:
        return [
            *(part.best_of_n("accuracies", column, name, largest) for name in methods),
            *(part.best_of_n("differences", column, name, largest, is_difference=True) for name in differences),
        ]

    rows = [Row(result.folder.absolute().parent.name, numbers(Entry(entry.name, [result]))) for result in entry.results]
    if len(rows) > 1:
        rows.append(Row("mean", numbers(entry)))
    title = f"Best-of-{largest} by seed, {column.replace('_', ' ')} (%)"
    columns = [*methods, *differences]
    pairs = frozenset(range(len(methods), len(columns)))
    return ReportTable("seeds", title, "run", columns, rows, with_intervals=pairs)


def _shape(result: RunResult, column: str) -> tuple[list[str], list[str], str]:
    """Methods, differences and the largest number of solutions of a report."""
    report = result.best_of_n or {}
    if column not in report["accuracies"]:
        raise ValueError(f"{result.folder / BEST_OF_N}: no {column!r}; it has {', '.join(report['accuracies'])}")
    return list(report["accuracies"][column]), list(report["differences"][column]), str(report["ns"][-1])


def seed_table(runs: Sequence[Path], column: str = "all_questions") -> Table:
    """The table of finished runs of the quickstart.

    Args:
        runs: Their folders.
        column: ``all_questions``, ``overall`` or a benchmark.

    Raises:
        ValueError: If a run has no report yet, or see :func:`seed_rows`.
    """
    for run in runs:
        if not (run / REPORT).is_file():
            raise ValueError(f"{run}: no {REPORT}; the run has not come to its end")
    return seed_rows(Entry("PRM", [RunResult((run / REPORT).parent, run.name) for run in runs]), column).to_table()
