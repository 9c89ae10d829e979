"""Write files atomically, and read JSON lines with their place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file in the same folder; after the block it is forced to disk and renamed to ``path``.

    A reader sees the old file or the new one, never a part. Missing folders are created. If the block raises, ``path``
    is not changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` as :func:`atomic_file` does."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Create a folder to write into; after the block it replaces ``path``.

    If the block raises, ``path`` is not changed.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` as :func:`atomic_write_bytes` does."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line as :func:`atomic_write_bytes` does.

    Raises:
        ValueError: If a row holds NaN or an infinity, which JSON cannot hold.
    """
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    atomic_write_text(path, "".join(f"{line}\n" for line in lines))


def parse_json_line(
    line: bytes, where: str, on_repeated_key: Callable[[str, str], object] | None = None
) -> dict[str, Any]:
    """The JSON object on a line.

    Args:
        line: With its newline, if it has one.
        where: ``file:line`` for the error message.
        on_repeated_key: Called with ``where`` and the key if an object has a key twice, of which the last one counts.

    Raises:
        ValueError: If the line is not a JSON object.
    """
    try:
        row = json.loads(line, object_pairs_hook=_pairs_hook(where, on_repeated_key))
    except (ValueError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else " (the line has no end: was the file cut short while it was written?)"
        raise ValueError(f"{where}: not valid JSON: {error}{cut}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


def _pairs_hook(
    where: str, on_repeated_key: Callable[[str, str], object] | None
) -> Callable[[list[tuple[str, Any]]], dict[str, Any]] | None:
    if on_repeated_key is None:
        return None

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            for key, count in Counter(key for key, _ in pairs).items():
                if count > 1:
                    on_repeated_key(where, key)
        return found

    return as_object


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Pairs of place ``file:line`` and line, for lines that are not blank; the first line is 1."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path}:{number}", line


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and objects of a JSON-lines file; blank lines are skipped.

    Raises:
        ValueError: For a line that is not a JSON object; names file and line.
    """
    for where, line in read_lines(path):
        yield int(where.rpartition(":")[2]), parse_json_line(line, where)
