"""The numbers of a report: where each comes from, several seeds in one, and tables of them.

Values are in percent, differences in percentage points.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_modules.callbacks.candidate_scores import CANDIDATE_SCORES
from lightning_modules.callbacks.step_scores import STEP_SCORES
from lightning_modules.metrics.table import Cell, Table
from tools.report.results import BEST_OF_N, PROCESS_BENCH, RunResult


@dataclass(frozen=True)
class Origin:
    """Where a number stands.

    Attributes:
        file: Of the report, or the source that a number is quoted from.
        pointer: Its place in a JSON file (RFC 6901), or the table of a source.
        rows: The rows that it was computed from, as ``file:first-last``; empty where they are not known.
    """

    file: str
    pointer: str
    rows: str = ""

    def __str__(self) -> str:
        return f"{self.file}#{self.pointer}" + (f" from {self.rows}" if self.rows else "")


@dataclass(frozen=True)
class Number:
    """One number of a table.

    Attributes:
        value: In percent; of several seeds the mean.
        origins: One for each seed.
        low: Lower bound of the 95 % interval; None where there is none, as for several seeds.
        high: Upper bound likewise.
        deviation: Standard deviation over seeds (n - 1); None for one.
        is_difference: Whether it is a difference, shown with its sign.
        is_quoted: Whether it is from a publication.
    """

    value: float
    origins: tuple[Origin, ...]
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    is_difference: bool = False
    is_quoted: bool = False

    @property
    def text(self) -> str:
        """The value, with its deviation if there is one."""
        shown = self._shown(self.value)
        return shown if self.deviation is None else f"{shown} ± {self.deviation:.1f}"

    @property
    def interval(self) -> str:
        """The interval in brackets; empty if there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{self._shown(self.low)}, {self._shown(self.high)}]"

    @property
    def whole_text(self) -> str:
        """Value and interval."""
        return f"{self.text} {self.interval}".strip()

    def _shown(self, value: float) -> str:
        digits = 2 if self.is_quoted and round(value, 1) != value else 1  # as it was printed
        # Adding 0.0 turns a negative zero into a positive one.
        return f"{round(value, digits) + 0.0:{'+' if self.is_difference else ''}.{digits}f}"


@dataclass(frozen=True)
class Row:
    """A row of a table: C numbers, None where there is none."""

    label: str
    numbers: Sequence[Number | None]
    group: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table in the layout of the paper.

    Attributes:
        name: Of its files, such as ``table2``.
        title: Above it.
        first: Heading of the column of labels.
        columns: C headings.
        rows: Own ones first, quoted ones behind; rows of a group follow each other.
        note: Below it.
        with_intervals: Numbers of the columns, from 0, that show their intervals where there is little room; in the
            page and the CSV file all do.
    """

    name: str
    title: str
    first: str
    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    with_intervals: frozenset[int] = field(default_factory=frozenset)

    def shown(self, column: int, number: Number | None) -> str:
        """The text of a number where there is little room."""
        if number is None:
            return "-"
        return number.whole_text if column in self.with_intervals else number.text

    def to_table(self) -> Table:
        """The same for Markdown and terminals, a line for each group."""
        rows, group = [], ""
        for row in self.rows:
            if row.group and row.group != group:
                rows.append([Cell(row.group, is_best=True), *(Cell("") for _ in self.columns)])
            group = row.group
            rows.append([Cell(row.label), *(Cell(self.shown(place, each)) for place, each in enumerate(row.numbers))])
        return Table(self.title, [self.first, *self.columns], rows, self.note)


@dataclass(frozen=True)
class Entry:
    """A reward model with its results: one, or one for each seed of the recipe."""

    name: str
    results: Sequence[RunResult]

    @property
    def first(self) -> RunResult:
        """Stands for all where they are alike."""
        return self.results[0]

    def best_of_n(self, *keys: str, is_difference: bool = False) -> Number | None:
        """The number at a place of the reports on benchmarks; None if one does not have it."""
        rows = [_candidate_rows(result, *keys[1:3]) for result in self.results]
        files = [result.folder / BEST_OF_N for result in self.results]
        return _combined([result.best_of_n for result in self.results], files, keys, rows, is_difference)

    def process_bench(self, *keys: str) -> Number | None:
        """The number at a place of the reports on VisualProcessBench; None if one does not have it."""
        rows = [_step_rows(result) for result in self.results]
        files = [result.folder / PROCESS_BENCH for result in self.results]
        return _combined([result.process_bench for result in self.results], files, keys, rows)


def _combined(
    reports: Sequence[Mapping[str, Any] | None],
    files: Sequence[Path],
    keys: Sequence[str],
    rows: Sequence[str],
    is_difference: bool = False,
) -> Number | None:
    found = [None if report is None else _at(report, keys) for report in reports]
    values = [each.get("value") if isinstance(each, dict) else each for each in found]
    numbers = [100 * value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values):
        return None
    pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
    origins = tuple(Origin(str(file), pointer, row) for file, row in zip(files, rows, strict=True))
    if len(numbers) > 1:
        return Number(
            statistics.fmean(numbers), origins, deviation=statistics.stdev(numbers), is_difference=is_difference
        )
    (only,) = found
    low, high = (100 * only[key] if isinstance(only, dict) and key in only else None for key in ("low", "high"))
    return Number(numbers[0], origins, low, high, is_difference=is_difference)


def _at(report: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if isinstance(report, list):
            report = report[int(key)] if int(key) < len(report) else None
        else:
            report = report.get(key) if isinstance(report, dict) else None
    return report


def _candidate_rows(result: RunResult, column: str, method: str) -> str:
    """The lines of a benchmark, or of all for a summary; of another critic the file of its scores."""
    if method == "outcome" or method.startswith("critic_"):
        return str((result.best_of_n or {}).get("critic_files", {}).get(method, ""))
    ranges = [
        rows.lines for name, rows in result.candidates.items() if name == column or column not in result.benchmarks
    ]
    if not ranges:
        return ""
    return f"{CANDIDATE_SCORES}:{min(first for first, _ in ranges)}-{max(last for _, last in ranges)}"


def _step_rows(result: RunResult) -> str:
    return f"{STEP_SCORES}:1-{len(result.step_scores)}" if result.step_scores else ""
