"""Files of process supervision: JSONL files, released archives, and Hugging Face dataset folders.

Every reader streams rows with their place and never holds a whole file.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_from_disk

from datamodules.storage.archive_parts import ArchiveError, archive_parts
from datamodules.storage.archives import BROKEN_ARCHIVE_ERRORS, check_member, open_archive, plain_members
from datamodules.storage.files import parse_json_line, read_lines

Kind = Literal["jsonl", "archived", "parquet", "saved"]
OnRepeatedKey = Callable[[str, str], object] | None

_INSIDE_ARCHIVE = re.compile(r"zip://(?P<name>.+)::(?P<archive>.+)", re.DOTALL)
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_ROWS_AT_ONCE = 32  # embedded pictures are large
_SAVED_STATE, _SAVED_SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True)
class AnnotationFile:
    """One file of process supervision, or one saved dataset.

    Attributes:
        path: Path of the file, of the archive that holds it, or of the folder of a saved dataset.
        kind: JSONL, JSONL in a zip archive, a parquet shard, or a ``save_to_disk`` dataset.
        source: Source of rows that name none: the file's stem; for shards the name of the dataset's folder.
        member: Name in the archive, else empty.
    """

    path: Path
    kind: Kind
    source: str
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def folder(self) -> Path:
        """The default folder that image paths are relative to."""
        inside = Path(self.member).parent if self.member else Path()
        return self.path if self.kind == "saved" else self.path.parent / inside

    def rows(self, on_repeated_key: OnRepeatedKey = None) -> Iterator[tuple[str, dict[str, Any] | ValueError]]:
        """Pairs of place ``file:row`` and row; for a line that is not a JSON object, its error instead of the row.

        Args:
            on_repeated_key: See :func:`datamodules.storage.files.parse_json_line`.

        Raises:
            ValueError: If the file as a whole cannot be read to its end.
        """
        try:
            if self.kind in ("parquet", "saved"):
                yield from _parquet_rows(self) if self.kind == "parquet" else _saved_rows(self)
            else:
                for where, line in read_lines(self.path) if self.kind == "jsonl" else _archived_lines(self):
                    yield where, _parsed(line, where, on_repeated_key)
        except (*BROKEN_ARCHIVE_ERRORS, pa.ArrowException) as error:
            raise ValueError(f"{self}: cannot be read: {error}") from error

    def content_files(self) -> list[Path]:
        """The files that the rows depend on."""
        if self.kind == "saved":
            return sorted(p for p in self.path.iterdir() if p.suffix in (".arrow", ".json"))
        return archive_parts(self.path)


def find_annotation_files(paths: Sequence[str | Path]) -> list[AnnotationFile]:
    """Find the annotation files of some paths, in a fixed order, each once.

    Args:
        paths: JSONL or parquet files; zip archives of JSONL files; ``save_to_disk`` datasets; folders of any of them,
            searched recursively (an ``annotations.zip`` is ignored if there is an ``annotations`` folder beside it);
            ``zip://file::archive`` for one file in an archive; patterns with ``*``.

    Raises:
        FileNotFoundError: If a path does not exist or holds nothing to read.
        ValueError: If an archive cannot be read.
    """
    files: list[AnnotationFile] = []
    for path in paths:
        inside = _INSIDE_ARCHIVE.fullmatch(str(path))
        if inside:
            files.append(AnnotationFile(Path(inside["archive"]), "archived", Path(inside["name"]).stem, inside["name"]))
            continue
        given = [Path(path)]
        if not given[0].exists() and glob.has_magic(str(path)):
            given = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        found = [file for each in given for file in _find(each)]
        if not found:
            raise FileNotFoundError(
                f"annotations: {path} is neither a JSONL or parquet file, an archive or saved dataset, nor a folder "
                f"that holds one"
            )
        files += found
    return list(dict.fromkeys(files))


def _find(path: Path) -> list[AnnotationFile]:
    if path.is_dir():
        return _find_in_folder(path, path)
    if path.suffix == ".jsonl" and path.is_file():
        return [AnnotationFile(path, "jsonl", path.stem)]
    if path.suffix == ".parquet" and path.is_file():
        return [_parquet(path, path.parent)]
    if path.suffix == ".zip" and archive_parts(path):
        with open_archive(path) as archive:
            names = sorted(name for name, _ in plain_members(archive, path) if name.endswith(".jsonl"))
        return [AnnotationFile(path, "archived", Path(name).stem, name) for name in names]
    return [AnnotationFile(path, "jsonl", path.stem)] if path.is_file() else []


def _find_in_folder(folder: Path, top: Path) -> list[AnnotationFile]:
    if (folder / _SAVED_STATE).is_file():
        return [AnnotationFile(folder, "saved", folder.name)]
    if (folder / _SAVED_SPLITS).is_file():
        splits = sorted(p for p in folder.iterdir() if (p / _SAVED_STATE).is_file())
        if len(splits) != 1:
            raise ValueError(
                f"{folder} is a dataset with the splits {[p.name for p in splits]}; name one of them, such as "
                f"{folder / 'train'}"
            )
        return [AnnotationFile(splits[0], "saved", folder.name)]
    found: list[AnnotationFile] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            found += _find_in_folder(path, top)
        elif path.suffix == ".jsonl":
            found.append(AnnotationFile(path, "jsonl", path.stem))
        elif path.suffix == ".parquet":
            found.append(_parquet(path, top))
        elif path.name == "annotations.zip" and not (folder / "annotations").is_dir():
            found += _find(path)
    return found


def _parquet(path: Path, top: Path) -> AnnotationFile:
    """Shards carry the name of their dataset's folder: ``geometry/data/train-00000-of-00002.parquet`` is geometry."""
    folder = path.parent if path.parent.name != "data" or path.parent == top else path.parent.parent
    return AnnotationFile(path, "parquet", folder.resolve().name if _SHARD.search(path.stem) else path.stem)


def _archived_lines(file: AnnotationFile) -> Iterator[tuple[str, bytes]]:
    with open_archive(file.path) as archive:
        info = dict(plain_members(archive, file.path)).get(file.member)
        if info is None:
            raise ArchiveError(f"{file.path}: there is no member {file.member!r}")
        check_member(info, file.path)
        with archive.open(info) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file}:{number}", line


def _parsed(line: bytes, where: str, on_repeated_key: OnRepeatedKey) -> dict[str, Any] | ValueError:
    try:
        return parse_json_line(line, where, on_repeated_key)
    except ValueError as error:
        return error


def _parquet_rows(file: AnnotationFile) -> Iterator[tuple[str, dict[str, Any] | ValueError]]:
    number = 0
    with pq.ParquetFile(file.path) as shard:
        for batch in shard.iter_batches(batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                yield f"{file.path}:{number}", row


def _saved_rows(file: AnnotationFile) -> Iterator[tuple[str, dict[str, Any] | ValueError]]:
    """Rows as stored: pictures are their bytes and path, not decoded."""
    dataset = load_from_disk(str(file.path))
    if isinstance(dataset, DatasetDict):
        raise ValueError(f"{file.path}: expected one split of a dataset, found {sorted(dataset)}")
    number = 0
    for batch in _arrow_batches(dataset):
        for row in batch.to_pylist():
            number += 1
            yield f"{file.path}:{number}", row


def _arrow_batches(dataset: Dataset) -> Iterator[Any]:
    return iter(dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE))


def content_digest(file: AnnotationFile) -> str:
    """A digest of all content that the rows of a file depend on."""
    total = hashlib.sha256()
    for part in file.content_files():
        with part.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()
