"""Benchmarks in the layouts of Hugging Face: folders of parquet, Arrow, JSON or CSV files, on the local disk only.

Understood are a download of a dataset repository, its copy in the hub's own cache, and what ``save_to_disk`` writes.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.pictures import PictureFinder
from datamodules.benchmarks.table import MAX_FIELD_LENGTH
from datamodules.storage.fields import shown
from datamodules.storage.files import parse_json_line, read_lines
from datamodules.storage.images import ImageError, check_image

SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json", ".csv")
"""File types that are read; where a split is there in several of them the first counts."""

ROWS_AT_ONCE = 64

_SHARD = re.compile(r"^(?P<name>.*?)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?$")
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class HubPart:
    """A part of a dataset that is needed.

    Attributes:
        split: Name of the split.
        configuration: Name of the configuration; empty where there is only one.
    """

    split: str
    configuration: str = ""

    def __str__(self) -> str:
        return f"{self.configuration}/{self.split}" if self.configuration else self.split


@dataclass(frozen=True)
class HubLayout:
    """A dataset as published.

    Attributes:
        repositories: Names ``owner/name`` that it is published under.
        columns: That each row must have.
        images: Columns that may hold the picture; the first that holds something counts.
    """

    repositories: tuple[str, ...]
    columns: tuple[str, ...]
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class HubRow:
    """One row.

    Attributes:
        values: Column name to value, of any type.
        part: That the row is from.
        number: Of the row in its part, from 0.
        file: That it stands in.
        root: Folder of the dataset, which picture paths are relative to.
        find: Finds pictures by their paths.
        problem: What is wrong with a row that cannot be used; empty for a good one.
    """

    values: Mapping[str, Any]
    part: HubPart
    number: int
    file: Path
    root: Path
    find: PictureFinder
    problem: str = ""

    @property
    def where(self) -> str:
        """``file: row n`` (from 0, within the split)."""
        return f"{self.file}: row {self.number}"

    def images(self, values: Sequence[Any], missing: list[str] | None = None) -> LazyImages:
        """Pictures from image structures (``{bytes, path}``), encoded bytes, or paths; headers are checked now.

        Args:
            values: One a picture.
            missing: Where given, a picture that is not on the disk is no error until it is opened; its path is added.

        Raises:
            ImageError: If a picture is broken, too large or missing; names file and row.
        """
        sources = [self._image_source(value, missing) for value in values]
        places = [self.where if len(sources) == 1 else f"{self.where}, picture {n + 1}" for n in range(len(sources))]
        for source, place in zip(sources, places, strict=True):
            if not isinstance(source, Path) or source.is_file():
                check_image(source, place)
        return LazyImages(sources, places)

    def _image_source(self, value: Any, missing: list[str] | None) -> bytes | str | Path:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value:
            raise ImageError(f"{self.where}: a picture must be bytes or a path, got {type(value).__name__}")
        found = self.find(value) if missing is None else self.find.optional(value)
        if found is not None:
            return found
        if missing is not None and not Path(value).is_absolute() and ".." not in Path(value).parts:
            missing.append(value)
            return self.root / value
        raise ImageError(f"{self.where}: the picture {value!r} is neither in {self.root} nor in {self.file.parent}")


def possible_roots(folder: Path, layout: HubLayout, name: str) -> list[Path]:
    """Folders in which a copy of the dataset may lie, whether or not they exist."""
    roots = []
    for repository in layout.repositories:
        owner, _, title = repository.partition("/")
        roots += [folder / title, folder / owner / title, folder / f"{owner}__{title}", folder / f"{owner}___{title}"]
        cache = folder / f"datasets--{owner}--{title}"
        reference = cache / "refs" / "main"
        if reference.is_file():
            roots.append(cache / "snapshots" / reference.read_text(encoding="utf-8").strip())
        roots += sorted((cache / "snapshots").glob("*"))
    return list(dict.fromkeys([*roots, folder / name]))


def find_root(folder: Path, layout: HubLayout, name: str) -> Path | None:
    """The first of :func:`possible_roots` that holds data files; None if none does."""
    for root in possible_roots(folder, layout, name):
        if root.is_dir() and _data_files(root):
            return root
    return None


def find_files(root: Path, part: HubPart) -> list[Path]:
    """The files of a part in their order; none if it is not there.

    Raises:
        ValueError: If a shard is missing, or two folders hold the part.
    """
    files = _data_files(root)
    chosen = [file for file in files if _belongs(file.relative_to(root), part)]
    if not chosen:  # a single configuration is often kept without a folder of its own
        flat = [file for file in files if file.parent == root or file.parent.name in ("data", part.split)]
        chosen = [file for file in flat if _belongs(file.relative_to(root), HubPart(part.split))]
        chosen = chosen or [file for file in files if file.parent == root and _shard_name(file) == "data"]
    for suffix in SUFFIXES:
        of_type = [file for file in chosen if file.suffix == suffix]
        if not of_type:
            continue
        parents = sorted({file.parent for file in of_type})
        if len(parents) > 1:
            raise ValueError(f"{root}: both {parents[0]} and {parents[1]} hold {part}; keep one of them")
        _check_shards(of_type, part)
        return of_type
    return []


def read_rows(root: Path, part: HubPart, columns: Sequence[str]) -> Iterator[HubRow]:
    """Rows of a part, read file by file.

    Raises:
        FileNotFoundError: If the part is not there.
        ValueError: If a file is broken, is a pointer that git-lfs left, or lacks a column; names the file.
    """
    files = find_files(root, part)
    if not files:
        raise FileNotFoundError(
            f"{root}: no files of {part}; looked for names like {part.split}-00000-of-00001.parquet, {part.split}.jsonl"
            f"{f' in a folder {part.configuration}' if part.configuration else ''}"
        )
    number = 0
    for file in files:
        for row in read_file(file, root, part, columns, number):
            yield row
            number += 1


def read_file(file: Path, root: Path, part: HubPart, columns: Sequence[str], number: int = 0) -> Iterator[HubRow]:
    """Rows of one file of a part.

    Args:
        file: To read.
        root: Of the dataset.
        part: That the file is of.
        columns: That each row must have.
        number: Of the first row.

    Raises:
        ValueError: See :func:`read_rows`.
    """
    with file.open("rb") as start:
        if start.read(len(_POINTER)) == _POINTER:
            raise ValueError(f"{file}: only the pointer of a large file; fetch it (git lfs pull, or the hub's CLI)")
    find = PictureFinder([root, file.parent])
    try:
        for place, values in enumerate(_rows_of_file(file)):
            problem = str(values) if isinstance(values, ValueError) else ""
            if isinstance(values, ValueError):
                values = {}
            elif missing := [name for name in columns if name not in values]:
                problem = f"{file}: columns {missing} are missing; the file has {sorted(values)}"
                if not place:
                    raise ValueError(problem)
                problem = f"{file}: row {number}: columns {missing} are missing; the row has {sorted(values)}"
            yield HubRow(values, part, number, file, root, find, problem)
            number += 1
    except (pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read after row {number} of {part}: {error}") from error


def first_values(file: Path) -> Mapping[str, Any]:
    """The first row of a file; empty if it has none or cannot be read."""
    try:
        values = next(iter(_rows_of_file(file)), {})
    except (ValueError, pa.ArrowException, csv.Error):
        return {}
    return {} if isinstance(values, ValueError) else values


def _data_files(root: Path) -> list[Path]:
    found = [path for path in root.rglob("*") if path.suffix in SUFFIXES]
    return sorted(p for p in found if not any(name.startswith(".") for name in p.relative_to(root).parts))


def _shard_name(path: Path) -> str:
    match = _SHARD.match(path.stem)
    return match["name"] if match else path.stem


def _belongs(path: Path, part: HubPart) -> bool:
    """Whether a file, relative to the root, is of a part: by its name, its folder, or as the configuration's file."""
    name, folders = _shard_name(path), path.parts[:-1]
    if part.configuration and name == part.configuration:
        return True
    if part.configuration and part.configuration not in folders:
        return False
    return name == part.split or (folders[-1:] == (part.split,) and (name == "data" or name.isdecimal()))


def _check_shards(files: Sequence[Path], part: HubPart) -> None:
    matches = [match for match in (_SHARD.match(file.stem) for file in files) if match]
    counts = {int(match["count"]) for match in matches}
    numbers = {int(match["number"]) for match in matches}
    missing = sorted(set(range(max(counts, default=0))) - numbers)
    if missing or len(counts) > 1 or len(numbers) < len(matches):
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{files[0].parent}: the shards of {part} are not complete and single; there are {names}")


def _rows_of_file(file: Path) -> Iterator[Mapping[str, Any] | ValueError]:
    """The rows, and in place of each line or item that is no JSON object what is wrong with it."""
    if file.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from batch.to_pylist()
    elif file.suffix == ".arrow":
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                for start in range(0, len(batch), ROWS_AT_ONCE):
                    yield from batch.slice(start, ROWS_AT_ONCE).to_pylist()
    elif file.suffix == ".jsonl":
        for where, line in read_lines(file):
            try:
                yield parse_json_line(line, where)
            except ValueError as error:
                yield error
    elif file.suffix == ".json":
        yield from _rows_of_json(file)
    else:
        csv.field_size_limit(MAX_FIELD_LENGTH)
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            for row in reader:
                is_whole = None not in row and None not in row.values()
                problem = f"{file}:{reader.line_num}: the number of cells is not that of the header"
                yield row if is_whole else ValueError(problem)


def _rows_of_json(file: Path) -> Iterator[Mapping[str, Any] | ValueError]:
    """A list of objects, or an object of objects whose keys serve as ``id`` where they have none."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON: {error}") from error
    if isinstance(content, dict):
        rows = [{"id": key, **row} if isinstance(row, dict) else row for key, row in content.items()]
    else:
        rows = content
    if not isinstance(rows, list) or not any(isinstance(row, dict) for row in rows):
        raise ValueError(f"{file}: expected a list of JSON objects, or an object of objects")
    for number, row in enumerate(rows):
        yield row if isinstance(row, dict) else ValueError(f"{file}: row {number}: is {shown(row)}, no JSON object")
