"""Write files atomically, and read JSON lines with their place."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_FULL = 2**20
"""Fewer free bytes than this are a full disk."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file in the same folder; after the block it is forced to disk and renamed to ``path``.

    A reader sees the old file or the new one, never a part. Missing folders are created. If the block raises, ``path``
    is not changed. If it is a link to a file, that one is replaced and the link stays.
    """
    path = Path(os.path.realpath(path)) if path.is_file() else path
    with errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with errors_name(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with errors_name(path):
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

    If the block raises, ``path`` is not changed. What is there is renamed first and removed last, so that a kill at any
    moment leaves a whole folder: at ``path``, or beside it as ``.partial-PID`` (the new one) or ``.replaced-PID``.

    Args:
        path: The folder. If it is a link to a folder, that one is replaced and the link stays.

    Raises:
        OSError: If it cannot be written; names ``path``.
    """
    path = Path(os.path.realpath(path)) if path.is_dir() else path
    partial, replaced = (path.with_name(f"{path.name}.{word}-{os.getpid()}") for word in ("partial", "replaced"))
    with errors_name(path):
        partial.mkdir(parents=True)
    try:
        with errors_name(path):
            yield partial
            is_there = path.is_dir()
            if is_there:
                path.rename(replaced)
            try:
                partial.rename(path)
            except OSError:
                if is_there:
                    replaced.rename(path)
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Within, an error of the operating system names ``path``, and so does a full disk that a library has met.

    An error about another file, which is read meanwhile, stays as it is. Libraries in Rust and C++ put the number of an
    error into a text, or say only that a write has failed.

    Raises:
        OSError: With ``path`` as its file name, in place of those of temporary files and of folders above it.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not _is_about(error.filename, path):
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
    except Exception as error:
        if (code := errno_of(error, path)) is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _is_about(name: object, path: Path) -> bool:
    """Whether the file name of an error is ``path``, above or below it, or temporary beside it; or there is none."""
    if not isinstance(name, str | bytes | os.PathLike):
        return True
    found, path = Path(os.fsdecode(name)).absolute(), path.absolute()
    beside = [each for each in (found, *found.parents) if each.parent == path.parent]
    is_temporary = any(each.name.startswith((f".{path.name}.", f"{path.name}.")) for each in beside)
    return found in (path, *path.parents) or path in beside or is_temporary


def errno_of(error: BaseException, path: Path) -> int | None:
    """The number of the operating system's error behind that of a library which writes ``path``; None if unknown.

    PyTorch does not say that a disk is full, so it is looked up.
    """
    if isinstance(error, OSError):
        return error.errno
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        return int(found[1])
    existing = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    is_write = re.search(r"file write failed|unexpected pos|PytorchStreamWriter", str(error))
    return errno.ENOSPC if is_write and shutil.disk_usage(existing).free < _FULL else None


def given_path(value: str, name: str) -> Path:
    """A path that a user has given.

    Args:
        value: Of an argument.
        name: Of the argument.

    Raises:
        ValueError: If it is empty, which would mean the present folder.
    """
    if not value.strip():
        raise ValueError(f"{name} must be a path, got {value!r}; is a variable of the environment empty?")
    return Path(value)


def require_writable_folder(path: Path) -> None:
    """Make sure that :func:`atomic_folder` can write a folder, without leaving anything.

    Args:
        path: The folder; it may be there.

    Raises:
        OSError: If a file lies there, or it cannot be made; names ``path``.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: is a file; a folder is to be written there")
    _try_beside(path)


def require_writable_file(path: Path) -> None:
    """Make sure that :func:`atomic_file` can write a file, without leaving anything.

    Args:
        path: The file; it may be there.

    Raises:
        OSError: If a folder lies there, or it cannot be made; names ``path``.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; a file is to be written there")
    _try_beside(path)


def require_another_file(path: Path, read: Iterable[Path]) -> None:
    """Refuse to write over a file that is read.

    Args:
        path: Of the file to write.
        read: Files and folders that are read.

    Raises:
        FileExistsError: If it is one of them.
    """
    if path.exists() and any(path.samefile(each) for each in read if each.exists()):
        raise FileExistsError(f"{path} is read, and would be replaced; give another file")


_TRIAL = 2**16  # bytes


def _try_beside(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path}: is a link to {os.readlink(path)}, which is not there")
    folder = path.absolute().parent
    try:
        there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        # Missing folders are tried elsewhere: who made them here and removed them would take them from another command.
        with tempfile.TemporaryDirectory(dir=there, prefix=f".{path.name}.") as place:
            made = Path(place, folder.relative_to(there))
            made.mkdir(parents=True, exist_ok=True)
            Path(made, "trial").write_bytes(bytes(_TRIAL))  # a full disk still takes a folder
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


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
