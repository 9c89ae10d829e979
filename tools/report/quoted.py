"""Figures quoted from publications, kept as data with their source: the JSON files of the folder ``published``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from tools.report.numbers import Number, Origin, Row


@dataclass(frozen=True)
class QuotedTable:
    """A table of a publication.

    Attributes:
        paper: Short name.
        source: Where it was published.
        table: Which one of it.
        beside: Name of our table that it stands beside.
        columns: Keys of its columns.
        note: What is to be known about it.
        rows: Label, group and values in percent of each row; None where there is none.
    """

    paper: str
    source: str
    table: str
    beside: str
    columns: Sequence[str]
    note: str
    rows: Sequence[Mapping[str, Any]]

    @property
    def cited(self) -> str:
        """Paper, table and source in a few words."""
        return f"{self.paper}, {self.table} ({self.source})"

    def to_rows(self, columns: Sequence[str]) -> list[Row]:
        """Its rows with the given columns, marked as quoted."""
        origin = (Origin(self.source, f" {self.table}"),)
        labels = {row["label"] for row in self.rows}
        rows = []
        for row in self.rows:
            by_column = dict(zip(self.columns, row["values"], strict=True))
            values = [by_column.get(column) for column in columns]
            numbers = [None if value is None else Number(value, origin, is_quoted=True) for value in values]
            # A policy's group begins with the row of the policy itself, and needs no heading.
            group = "" if row["group"] in labels else row["group"]
            rows.append(Row(row["label"], numbers, " · ".join(filter(None, (f"quoted: {self.cited}", group)))))
        return rows


def quoted_tables() -> list[QuotedTable]:
    """All quoted tables, those of VisualPRM first."""
    names = sorted(each.name for each in files("tools.report.published").iterdir() if each.name.endswith(".json"))
    found = []
    for name in sorted(names, key=lambda name: name != "visualprm.json"):
        paper = json.loads((files("tools.report.published") / name).read_text("utf-8"))
        found += [QuotedTable(paper["paper"], paper["source"], **table) for table in paper["tables"]]
    return found


def quoted_beside(name: str, columns: Sequence[str]) -> tuple[list[Row], str]:
    """The quoted rows that stand beside one of our tables, and what is to be known about them.

    Args:
        name: Of our table.
        columns: Keys of its columns.
    """
    tables = [table for table in quoted_tables() if table.beside == name]
    rows = [row for table in tables for row in table.to_rows(columns)]
    notes = [f"{table.cited}: {table.note}" for table in tables if table.note]
    return rows, " ".join(notes)
