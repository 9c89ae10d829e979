"""The table of an annotation file on disk: written once, then memory-mapped; cached by content.

A second start neither parses nor hashes: the digest of an unchanged file is stored beside the tables.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features
from filelock import FileLock

from datamodules.storage.files import atomic_file, atomic_write_text
from datamodules.supervision.annotation_files import AnnotationFile, content_digest

_ROWS_PER_BATCH = 10_000  # a column that a start reads then lies in few pages
_BYTES_PER_BATCH = 64 * 2**20
_SETTLED_SECONDS = 0.05  # a file changed twice within the resolution of its time stamp must not pass as unchanged


def table_folder(cache_dir: str | Path | None) -> Path:
    """Folder of the tables: ``cache_dir``, else the cache of `datasets`."""
    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "process_supervision"


def remembered_digest(file: AnnotationFile, folder: Path) -> str:
    """The digest of a file's content; computed only if size or time stamps have changed."""
    states = [(str(part.resolve()), (state := part.stat()).st_size, state.st_mtime_ns) for part in file.content_files()]
    name = hashlib.sha256(json.dumps([str(file.path.resolve()), file.member]).encode()).hexdigest()[:32]
    note = folder / "digests" / f"{name}.json"
    current = json.loads(json.dumps(states))
    if note.is_file():
        remembered = json.loads(note.read_bytes())
        if remembered["files"] == current:
            return str(remembered["digest"])
    age = time.time() - max(mtime for _, _, mtime in states) / 1e9
    time.sleep(min(max(_SETTLED_SECONDS - age, 0.0), _SETTLED_SECONDS))
    digest = content_digest(file)
    atomic_write_text(note, json.dumps({"files": current, "digest": digest}))
    return digest


def table_path(folder: Path, identity: Mapping[str, Any]) -> Path:
    """The path of the table with an identity: all that its content depends on."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
    return folder / f"{key[:32]}.arrow"


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], features: Features, *, anew: bool = False) -> None:
    """Stream rows into an Arrow file, which appears when it is complete; other processes wait for it.

    Args:
        path: File to write, unless it exists.
        rows: Rows; read only if the file is written.
        features: Columns.
        anew: Replace an existing file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.is_file() and not anew:
            return
        with atomic_file(path) as file:
            _write_batches(file, rows, features.arrow_schema)


def _write_batches(file: Any, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    pending: list[Mapping[str, Any]] = []
    size = 0
    with pa.ipc.new_stream(file, schema) as writer:
        for row in rows:
            pending.append(row)
            size += sum(len(data) for data in row["image_bytes"] if data)
            if len(pending) >= _ROWS_PER_BATCH or size >= _BYTES_PER_BATCH:
                writer.write_batch(_batch(pending, schema))
                pending, size = [], 0
        if pending:
            writer.write_batch(_batch(pending, schema))


def _batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array([row[field.name] for row in rows], type=field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def open_table(path: Path) -> Dataset:
    """The table, memory-mapped."""
    return Dataset.from_file(str(path))
