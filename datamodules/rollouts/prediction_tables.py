"""Prediction files of VLMEvalKit: the columns of a benchmark's table without the pictures, and ``prediction``.

TSV and XLSX are read and written. Spreadsheets need care: their cells hold at most 32,767 characters, text that begins
with "=" becomes a formula, and control characters cannot be written; nothing of that is cut or changed silently here,
as libraries of spreadsheets do.
"""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openpyxl import Workbook, load_workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.utils.exceptions import InvalidFileException

from datamodules.benchmarks.table import TableRow, check_header, read_table, write_table
from datamodules.storage.bad_rows import MAX_BAD_ROWS, BadRows, OnBadRow
from datamodules.storage.fields import first_of, shown
from datamodules.storage.files import atomic_write_bytes

PREDICTION = "prediction"
INDEX = "index"
PICTURES = "image"
MAX_CELL_LENGTH = 32_767
"""Of a spreadsheet cell, in UTF-16 code units."""
MAX_UNPACKED_BYTES = 2 * 2**30
"""A workbook, which is a zip archive, that unpacks to more is refused."""

_REQUIRED = (INDEX, PREDICTION)
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]|_x[0-9A-Fa-f]{4}_")
# XlsxWriter, and so VLMEvalKit, writes control characters like this; openpyxl gives them as they stand in the file.
_ESCAPED_CONTROL = re.compile(r"_x(00[01][0-9A-Fa-f])_")
_LARGEST_EXACT = 2**53


def read_predictions(path: Path, on_bad_row: OnBadRow = "skip", max_bad_rows: float = MAX_BAD_ROWS) -> list[TableRow]:
    """Read a prediction file.

    Args:
        path: Ends in ``.tsv`` or ``.xlsx``.
        on_bad_row: Leave out rows that cannot be used and say how many and which, or raise an error at the first one.
        max_bad_rows: Largest share of these, see :func:`datamodules.storage.bad_rows.require_few_bad_rows`.

    Returns:
        Its rows, every cell as text; an empty cell is a missing value.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind or broken, or lacks a column; if no row can be used, or one cannot
            (a cell holds what is no text, the index is empty or repeated) and ``on_bad_row`` is "error". Names file,
            line or row, and column.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such prediction file")
    kind = path.suffix.lower()
    bad = BadRows(on_bad_row, max_bad_rows)
    if kind == ".tsv":
        table = read_table(path, _REQUIRED, on_bad_row)
        bad.problems += map(str, table.problems)
        rows = list(table)
    elif kind == ".xlsx":
        rows = _read_workbook(path, bad)
    else:
        raise _other_kind(path, "; convert it first")
    bad.report(str(path), len(rows) + len(bad.problems))
    return rows


def _other_kind(path: Path, advice: str = "") -> ValueError:
    return ValueError(f"{path}: a prediction file ends in .tsv or .xlsx, not in {path.suffix!r}{advice}")


def write_predictions(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write a prediction file, whole or not at all.

    In XLSX, columns of nothing but numbers are written as numbers, as VLMEvalKit does, which compares them as such;
    predictions always are text.

    Args:
        path: Ends in ``.tsv`` or ``.xlsx``.
        rows: Column to cell; the columns are all keys in the order of their first appearance.

    Raises:
        ValueError: If the file is to be of another kind, or a text does not fit into a cell of it; names the rows.
    """
    kind = path.suffix.lower()
    if kind == ".tsv":
        write_table(path, rows)
    elif kind == ".xlsx":
        atomic_write_bytes(path, _workbook(path, rows))
    else:
        raise _other_kind(path)


# ------------------------------------------------------------------------ read


def _read_workbook(path: Path, bad: BadRows) -> list[TableRow]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise ValueError(f"{path}: unpacks to {unpacked} bytes; at most {MAX_UNPACKED_BYTES} are allowed")
        # Formulas are read as their text: that is what was meant where a prediction that begins with "=" became one.
        book = load_workbook(path, read_only=True, data_only=False)
    except (zipfile.BadZipFile, InvalidFileException, KeyError, OSError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be opened as an XLSX file: {error}") from error
    try:
        sheets = book.worksheets
        if not sheets:
            raise ValueError(f"{path}: the workbook has no sheet")
        sheet: Any = sheets[0]
        sheet.reset_dimensions()  # what some tools write there is wrong
        return _rows(path, sheet.title, sheet.iter_rows(), bad)
    finally:
        book.close()


def _rows(path: Path, sheet: str, cells_of_rows: Iterator[Sequence[Any]], bad: BadRows) -> list[TableRow]:
    header: list[str] = []
    seen: dict[str, int] = {}
    rows: list[TableRow] = []
    for number, cells in enumerate(cells_of_rows, start=1):
        where = f"{path}: sheet {sheet!r}, row {number}"
        if not header:
            header = _header(_texts(cells, where), where)
            continue
        try:
            texts = _texts(cells, where)
            if any(texts):
                rows.append(_row(texts, header, where, number, seen))
        except ValueError as error:
            bad.add(error)
    if not rows:
        raise ValueError(f"{path}: sheet {sheet!r} has no rows{' that can be used' if bad.problems else ''}{bad.first}")
    return rows


def _texts(cells: Sequence[Any], where: str) -> list[str]:
    return [_cell_text(cell, f"{where}, cell {column}") for column, cell in enumerate(cells, start=1)]


def _row(texts: list[str], header: list[str], where: str, number: int, seen: dict[str, int]) -> TableRow:
    """A row; ``seen`` remembers the number of the row of each index."""
    if any(texts[len(header) :]):
        raise ValueError(f"{where}: {len(texts)} cells, but the header names {len(header)} columns")
    values = dict(zip(header, texts + [""] * len(header), strict=False))
    index = values[INDEX]
    if not index.strip():
        raise ValueError(f"{where}: column {INDEX!r} is empty")
    if index in seen:
        raise ValueError(f"{where}: column {INDEX!r} repeats {index!r} of row {seen[index]}; it must be unique")
    seen[index] = number
    return TableRow(values, f"{where} (index {index})")


def _header(texts: Sequence[str], where: str) -> list[str]:
    header = list(texts)
    while header and not header[-1]:
        header.pop()
    check_header(header, _REQUIRED, where)
    return header


def _cell_text(cell: Any, where: str) -> str:
    """The text of a cell, numbers as they are written without a format."""
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "e":
        raise ValueError(f"{where}: holds the spreadsheet error {value}; the text that was there is lost")
    if isinstance(value, str):
        return _ESCAPED_CONTROL.sub(lambda found: chr(int(found[1], 16)), value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_EXACT:
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        raise ValueError(
            f"{where}: holds the date {value}, which a spreadsheet program made of a text; export it again"
        )
    raise ValueError(f"{where}: holds {shown(value)}, which is no text")


# ----------------------------------------------------------------------- write


def _workbook(path: Path, rows: Sequence[Mapping[str, str]]) -> bytes:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    _check_texts(path, rows)
    convert = {column: _converter(column, [row.get(column, "") for row in rows]) for column in columns}
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    sheet.append([_text_cell(sheet, column) for column in columns])
    for row in rows:
        cells = ((convert[column], row.get(column, "")) for column in columns)
        sheet.append([None if not text else make(text) if make else _text_cell(sheet, text) for make, text in cells])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _text_cell(sheet: Any, text: str) -> Any:
    """A cell of text, whatever the text looks like: openpyxl would make formulas of "=..." and errors of "#N/A"."""
    cell: Any = WriteOnlyCell(sheet, value=text)
    cell.data_type = "s"
    return cell


def cell_length(text: str) -> int:
    """How many characters of a spreadsheet cell a text takes: those outside of the basic plane count twice."""
    return len(text) + sum(character > "\uffff" for character in text)


def _check_texts(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    too_long, unwritable = [], []
    for row in rows:
        for column, text in row.items():
            name = f"index {row.get(INDEX, '')!r}, column {column!r}"
            length = cell_length(text)
            if length > MAX_CELL_LENGTH:
                too_long.append(f"{name} ({length} characters)")
            elif found := _UNWRITABLE.search(text):
                unwritable.append(f"{name} ({found.group()!r})")
    problems = []
    if too_long:
        problems.append(f"{len(too_long)} texts are longer than the {MAX_CELL_LENGTH} characters of a cell: ")
        problems[-1] += first_of(too_long)
    if unwritable:
        problems.append(f"{len(unwritable)} texts hold characters that XLSX does not keep: {first_of(unwritable)}")
    if problems:
        raise ValueError(
            f"{path}: {'; '.join(problems)}. Write a .tsv file instead, which holds every text (VLMEvalKit reads it "
            f"when PRED_FORMAT=tsv is set)"
        )


def _converter(column: str, cells: Sequence[str]) -> Callable[[str], float] | None:
    """What makes numbers of the cells of a column, if all of them are numbers that stay what they are; else None."""
    texts = [cell for cell in cells if cell]
    if column == PREDICTION or not texts:
        return None
    if all(re.fullmatch(r"0|-?[1-9]\d{0,14}", text) for text in texts):
        return int
    if all(
        re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", text) and repr(float(text)) in (text, f"{text}.0") for text in texts
    ):
        return float
    return None
