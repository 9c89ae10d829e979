"""Tables of questions in the TSV format of VLMEvalKit: reading with places for errors, and writing.

One header line, tab-separated, fields may hold newlines in quotes. Every cell is read as a string: option texts such as
``None`` or ``NA`` and answers such as ``3.0`` or ``007`` stay what they are; an empty cell is a missing value.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.question import OPTION_LETTERS
from datamodules.storage.bad_rows import OnBadRow
from datamodules.storage.files import atomic_write_text
from datamodules.storage.images import ImageError, check_image

MAX_REFERENCE_LENGTH = 64
"""An image cell of at most this many characters names the row (by its index) whose image it shares."""

MAX_FIELD_LENGTH = 2**31 - 1


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        values: Column name to cell; an empty string is a missing value.
        where: ``file:line (index i)``, to begin error messages with.
    """

    values: Mapping[str, str]
    where: str

    def get(self, column: str) -> str:
        """The cell of a column; empty when the cell is empty or the table has no such column."""
        return self.values.get(column, "")

    def require(self, column: str) -> str:
        """The cell of a column that must hold something.

        Raises:
            ValueError: If it is empty or missing.
        """
        value = self.get(column)
        if not value.strip():
            raise ValueError(f"{self.where}: column {column!r} is empty")
        return value

    def string_list(self, column: str) -> list[str]:
        """A cell that holds the text of a Python list, such as ``['Yes', 'No']``; empty or ``None`` give no items.

        Raises:
            ValueError: If the cell is not the text of a list.
        """
        text = self.get(column).strip()
        if text in ("", "None", "nan"):
            return []
        return [str(item) for item in parse_list(text, f"{self.where}: column {column!r}")]


def cell_text(value: object) -> str:
    """What a value of another format is as a cell: empty for None and NaN, a list as Python writes it."""
    if value is None or value != value:
        return ""
    return value if isinstance(value, str) else str(value)


def parse_list(text: str, where: str) -> list[object]:
    """Parse the text of a Python list of literals.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{where}: expected the text of a Python list, got {text[:80]!r}: {error}") from error
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: expected the text of a Python list, got {text[:80]!r}")
    return list(value)


class Table:
    """A table that was read.

    Args:
        path: Of the file.
        rows: Its rows.
        problems: What is wrong with the rows that were left out.
    """

    def __init__(self, path: Path, rows: Sequence[TableRow], problems: Sequence[ValueError] = ()) -> None:
        self.path = path
        self.problems = list(problems)
        self.rows = list(rows)
        self._image_cells = {row.get("index"): row.get("image") for row in self.rows}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[TableRow]:
        return iter(self.rows)

    def images(self, row: TableRow, missing: list[str] | None = None) -> LazyImages:
        """The pictures of a row, none for an empty cell; headers and sizes are checked now, pixels at access.

        The cell is base64 of a file, or the text of a list of them, or the index of another row. A table without a
        column ``image`` names files in ``image_path``, relative to ``images/<table name>`` beside it.

        Args:
            row: Of this table.
            missing: Where given, a file that is not on the disk is no error until it is opened; its path is added.

        Raises:
            ImageError: If a cell is neither, or a picture is broken, missing or too large; names file, line, column.
        """
        if "image" not in row.values and row.get("image_path"):
            return self._images_of_paths(row, missing)
        place = f"{row.where}: column 'image'"
        cell = row.get("image").strip()
        if cell and len(cell) <= MAX_REFERENCE_LENGTH:
            target = self._image_cells.get(cell, "").strip()
            if len(target) <= MAX_REFERENCE_LENGTH:
                raise ImageError(f"{place}: {cell!r} is neither a picture nor the index of a row that has one")
            cell = target
        sources = []
        encoded = _split_cell(cell, place)
        places = [place if len(encoded) == 1 else f"{place}, picture {n}" for n in range(1, len(encoded) + 1)]
        for text, where in zip(encoded, places, strict=True):
            sources.append(_decode_base64(text, where))
            check_image(sources[-1], where)
        return LazyImages(sources, places)

    def _images_of_paths(self, row: TableRow, missing: list[str] | None) -> LazyImages:
        place = f"{row.where}: column 'image_path'"
        root = self.path.parent / "images" / self.path.stem
        paths = [root / name for name in _split_cell(row.get("image_path").strip(), place)]
        for path in paths:
            if missing is None or path.is_file():
                check_image(path, place)
            else:
                missing.append(str(path))
        return LazyImages(paths, [place] * len(paths))


def _split_cell(cell: str, where: str) -> list[str]:
    if not cell:
        return []
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    try:
        items = parse_list(cell, where)
    except ValueError as error:
        raise ImageError(str(error)) from error
    if not all(isinstance(item, str) for item in items):
        raise ImageError(f"{where}: expected a list of strings")
    return [str(item) for item in items]


def _decode_base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{where}: not valid base64: {error} (it begins with {text[:24]!r})") from error


def options_of_columns(row: TableRow) -> dict[str, str]:
    """The options in the columns A, B, C, ... of a row."""
    return {letter: row.get(letter).strip() for letter in OPTION_LETTERS if row.get(letter).strip()}


def read_table(path: Path, required: Sequence[str] = (), on_bad_row: OnBadRow = "error") -> Table:
    """Read a table.

    Args:
        path: Of the TSV file.
        required: Columns that it must have besides ``index``.
        on_bad_row: What to do about a row with too few or too many cells or an index that is empty or repeated: raise
            an error, or leave it out and keep the error in :attr:`Table.problems`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8, a required column is missing or named twice, a row has too few or too many
            cells, quotes are not closed, or an index is empty or repeated; names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table; put the benchmark's TSV file there")
    csv.field_size_limit(MAX_FIELD_LENGTH)
    rows: list[TableRow] = []
    problems: list[ValueError] = []
    seen: set[str] = set()
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t", strict=True)
        line = 1
        try:
            header = next(reader, [])
            check_header(header, ["index", *required], f"{path}:1")
            line = reader.line_num + 1
            for cells in reader:
                try:
                    if cells:
                        rows.append(_read_row(cells, header, f"{path}:{line}", seen))
                except ValueError as error:
                    if on_bad_row == "error":
                        raise
                    problems.append(error)
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}:{line}: not a tab-separated table: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: after line {line}: not UTF-8: {error}") from error
    if not rows:
        raise ValueError(f"{path}: the table has no rows{f' that can be used: {problems[0]}' if problems else ''}")
    return Table(path, rows, problems)


def check_header(header: Sequence[str], required: Sequence[str], where: str) -> None:
    """Raise a ValueError that begins with ``where`` if columns are missing or named more than once."""
    missing = [name for name in required if name not in header]
    if missing:
        raise ValueError(f"{where}: columns {missing} are missing; the table has {list(header)}")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"{where}: columns {repeated} are named more than once")


def _read_row(cells: list[str], header: list[str], where: str, seen: set[str]) -> TableRow:
    if len(cells) != len(header):
        raise ValueError(f"{where}: {len(cells)} cells, but the header names {len(header)} columns")
    values = dict(zip(header, cells, strict=True))
    index = values["index"]
    if not index.strip():
        raise ValueError(f"{where}: column 'index' is empty")
    if index in seen:
        raise ValueError(f"{where}: column 'index' repeats {index!r}; it must be unique")
    seen.add(index)
    return TableRow(values, f"{where} (index {index})")


def encode_image(image: Image.Image) -> str:
    """Base64 of the picture as a PNG file, for an image cell."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def encode_images(images: Sequence[Image.Image]) -> str:
    """An image cell: empty for no picture, base64 for one, the text of a list for several."""
    encoded = [encode_image(image) for image in images]
    return encoded[0] if len(encoded) == 1 else str(encoded) if encoded else ""


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows as a table; its columns are all keys in the order of their first appearance.

    Args:
        path: Of the TSV file; replaced as a whole.
        rows: Column name to cell; a missing key gives an empty cell.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[row.get(column, "") for column in columns] for row in rows])
    atomic_write_text(path, text.getvalue())
