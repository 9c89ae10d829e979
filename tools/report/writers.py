"""Tables as files: Markdown, CSV, LaTeX, and where each number comes from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tools.report.figures import ReportFigure
from tools.report.numbers import Number, ReportTable, Row

_CSV_FIELDS = (
    *("table", "group", "row", "kind", "column", "value", "low", "high", "deviation", "runs", "file", "place", "rows"),
)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
} | {each: f"\\{each}" for each in "&%$#_{}"}


def markdown_of(title: str, tables: Sequence[ReportTable], notes: Sequence[str]) -> str:
    """All tables and notes as one text."""
    parts = [f"# {title}\n", *(table.to_table().to_markdown() for table in tables)]
    if notes:
        parts.append("\n".join(["### Notes\n", *(f"- {note}" for note in notes), ""]))
    return "\n".join(parts)


def _numbers(table: ReportTable) -> Iterator[tuple[Row, str, Number]]:
    for row in table.rows:
        for column, number in zip(table.columns, row.numbers, strict=True):
            if number is not None:
                yield row, column, number


def csv_of(table: ReportTable) -> str:
    """A line for each number, with its bounds and where it comes from; empty fields where there is nothing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(_CSV_FIELDS)
    for row, column, number in _numbers(table):
        values = [number.value, number.low, number.high, number.deviation]
        kind = "quoted" if number.is_quoted else "difference" if number.is_difference else "measured"
        origins = [list(each) for each in zip(*((o.file, o.pointer, o.rows) for o in number.origins), strict=True)]
        writer.writerow(
            [
                *(table.name, row.group, row.label, kind, column),
                *("" if value is None else f"{value:.6g}" for value in values),
                len(number.origins),
                *(" | ".join(parts).strip() for parts in origins),
            ]
        )
    return buffer.getvalue()


def latex_of(table: ReportTable) -> str:
    """A table of the package ``booktabs``; rows that are quoted are in italics."""
    columns = len(table.columns)
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(table.title)}. {_escaped(table.note)}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{l{'r' * columns}}}",
        r"\toprule",
        " & ".join(map(_escaped, [table.first, *table.columns])) + r" \\",
        r"\midrule",
    ]
    group = ""
    for row in table.rows:
        if row.group and row.group != group:
            lines += [] if not group else [r"\addlinespace"]
            lines.append(rf"\multicolumn{{{columns + 1}}}{{l}}{{\textbf{{{_escaped(row.group)}}}}} \\")
        group = row.group
        is_quoted = any(number is not None and number.is_quoted for number in row.numbers)
        cells = [_escaped(row.label), *(_escaped(table.shown(*each)) for each in enumerate(row.numbers))]
        lines.append(" & ".join(rf"\textit{{{cell}}}" if is_quoted else cell for cell in cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def origins_of(tables: Sequence[ReportTable]) -> dict[str, Any]:
    """Files, places and rows of every number, by table, row and column."""
    return {
        table.name: [
            {
                "group": row.group,
                "row": row.label,
                "column": column,
                "value": number.value,
                "is_quoted": number.is_quoted,
                "origins": [asdict(origin) for origin in number.origins],
            }
            for row, column, number in _numbers(table)
        ]
        for table in tables
    }


def json_of(tables: Sequence[ReportTable], figures: Sequence[ReportFigure]) -> str:
    """The file of origins, of tables and figures."""
    of_figures = {figure.name: list(figure.files) for figure in figures}
    return json.dumps({"tables": origins_of(tables), "figures": of_figures}, indent=1, ensure_ascii=False) + "\n"
