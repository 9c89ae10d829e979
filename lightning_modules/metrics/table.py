"""A small table, written as markdown or shown in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

_GAP = 2
_UNLIMITED = 10_000


@dataclass(frozen=True)
class Cell:
    """Text of a cell, bold if it is the best of its column."""

    text: str
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column holds names, the others numbers.

    Attributes:
        title: Title above the table.
        header: C column names.
        rows: Rows of C cells.
        note: Text below the table; may be empty.

    Raises:
        ValueError: If a row does not have as many cells as the header.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(f"row {number} has {len(row)} cells, expected {len(self.header)}")

    def to_markdown(self) -> str:
        """The table in GitHub's markdown, with padded columns."""
        texts = [[f"**{cell.text}**" if cell.is_best else cell.text for cell in row] for row in self.rows]
        # A vertical bar would end the cell.
        grid = [[text.replace("|", "\\|") for text in line] for line in [list(self.header), *texts]]
        widths = [max(3, *(len(line[column]) for line in grid)) for column in range(len(self.header))]
        aligned = [
            " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).join(("| ", " |"))
            for line in grid
        ]
        rule = " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]).join(("| ", " |"))
        parts = [f"### {self.title}\n", aligned[0], rule, *aligned[1:]]
        return "\n".join([*parts, "", self.note, ""] if self.note else [*parts, ""])

    def column_widths(self, width: int) -> list[int]:
        """Column widths in characters for a terminal of ``width``; headings are folded to fit, cells are not."""
        cells = [max((len(row[column].text) for row in self.rows), default=1) for column in range(len(self.header))]
        widths = list(map(max, cells, map(len, self.header)))
        while sum(widths) + _GAP * (len(widths) - 1) > width and widths != cells:
            widest = max(range(len(widths)), key=lambda column: widths[column] - cells[column])
            widths[widest] -= 1
        return widths

    def to_rich(self, widths: Sequence[int]) -> RichTable:
        """Header and rows for a terminal, with columns of the given widths."""
        table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        for number, (name, column_width) in enumerate(zip(self.header, widths, strict=True)):
            justify: JustifyMethod = "right" if number else "left"
            table.add_column(name, justify=justify, width=column_width, overflow="fold", vertical="bottom")
        for row in self.rows:
            table.add_row(*(Text(cell.text, style="bold" if cell.is_best else "") for cell in row))
        return table


def print_tables(tables: Sequence[Table], console: Console | None = None) -> None:
    """Print tables; headings are folded to fit a terminal, and not folded in a file.

    Args:
        tables: Tables in order.
        console: Output, widened if necessary; standard output by default.
    """
    console = console or Console()
    for table in tables:
        widths = table.column_widths(console.width if console.is_terminal else _UNLIMITED)
        # A console cuts what is wider than itself.
        console.width = max(console.width, sum(widths) + _GAP * (len(widths) - 1))
        console.print(Text(table.title, style="bold"))
        console.print()
        console.print(table.to_rich(widths))
        if table.note:
            console.print()
            console.print(Text(table.note))
        console.print()
