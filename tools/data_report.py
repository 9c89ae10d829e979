"""Report on annotations, as tables for the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Table

from tools.data_check import MC_BINS, DataReport, SourceReport


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def _mean(total: float, count: int) -> str:
    return f"{total / count:.1f}" if count else "-"


def _scored(report: SourceReport) -> int:
    return report.labels["+"] + report.labels["-"]


_ROWS: dict[str, Callable[[SourceReport], str]] = {
    "rows": lambda r: str(r.rows),
    "bad": lambda r: str(r.bad_rows),
    "odd": lambda r: str(r.remarks),
    "duplicates": lambda r: str(r.duplicates),
    "steps": lambda r: str(r.steps),
    "blank": lambda r: str(r.blank_steps),
    "steps/row": lambda r: _mean(r.steps, r.rows - r.bad_rows),
    "words/step": lambda r: _mean(r.words, r.steps),
}
_IMAGES: dict[str, Callable[[SourceReport], str]] = {
    "images": lambda r: str(r.images),
    "missing": lambda r: str(r.missing),
    "undecodable": lambda r: str(r.undecodable),
}
_LABELS: dict[str, Callable[[SourceReport], str]] = {
    "incorrect %": lambda r: _share(r.labels["-"], _scored(r)),
    "+": lambda r: str(r.labels["+"]),
    "-": lambda r: str(r.labels["-"]),
    "no score": lambda r: str(r.labels["none"]),
}


def tables(report: DataReport) -> list[Table]:
    """Tables by source, with the total at the end: rows, images if they were opened, labels, Monte Carlo scores."""
    images = [_table(report, "Images", _IMAGES)] if report.images_opened else []
    scores = {name: _counter(name) for name in MC_BINS}
    return [
        _table(report, "Rows", _ROWS),
        *images,
        _table(report, "Labels of steps", _LABELS),
        _table(report, "Monte Carlo scores of steps", scores),
    ]


def _counter(name: str) -> Callable[[SourceReport], str]:
    return lambda report: str(report.mc[name])


def _table(report: DataReport, title: str, columns: dict[str, Callable[[SourceReport], str]]) -> Table:
    table = Table(title=title)
    table.add_column("source", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    for source, counts in report.sources.items():
        table.add_row(escape(source), *(cell(counts) for cell in columns.values()))
    table.add_section()
    table.add_row("all", *(cell(report.total) for cell in columns.values()))
    return table


def as_json(report: DataReport) -> str:
    """The report as JSON.

    ``total`` and ``sources`` hold the counts of :class:`tools.data_check.SourceReport` with shares and means;
    ``bad_rows``, ``remarks``, ``empty_files`` and ``duplicates`` follow.
    """
    content = {
        "total": _counts(report.total),
        "sources": {source: _counts(counts) for source, counts in report.sources.items()},
        "images_opened": report.images_opened,
        "bad_rows": [{"place": place, "reason": reason} for place, reason in report.bad_rows],
        "remarks": [{"place": place, "remark": remark} for place, remark in report.remarks],
        "empty_files": report.empty_files,
        "duplicates": [{"place": place, "repeats": earlier} for place, earlier in report.duplicates],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _counts(counts: SourceReport) -> dict[str, Any]:
    good, scored = counts.rows - counts.bad_rows, _scored(counts)
    return {
        **vars(counts),
        "mc": {name: counts.mc[name] for name in MC_BINS},
        "steps_per_row": counts.steps / good if good else None,
        "words_per_step": counts.words / counts.steps if counts.steps else None,
        "share_incorrect": counts.labels["-"] / scored if scored else None,
    }
