"""The help of subcommands and classes, kept in the user's cache folder.

It is made of the signatures of Lightning's and our classes. To import these takes 10 to 20 s on a slow machine, four
fifths of it for PyTorch and Lightning alone; to make the text takes 0.3 s. So only the first call imports anything.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datamodules.storage.files import atomic_write_text

_IS_HELP = re.compile(r"-h|--help|--[\w.]+\.help(=\w+)?")
# A class with dots in its name may be the user's, whose files are not looked at here.
_IS_CLASS = re.compile(r"\w+")
_SOURCES = ("lightning_modules", "datamodules")
_LIBRARIES = ("torch", "lightning", "transformers", "jsonargparse", "docstring-parser", "omegaconf")


class KeptHelp:
    """A text of help, valid for these arguments, terminal width, versions of libraries and source files.

    Args:
        arguments: Of the command, see :func:`asks_for_help`.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._width = shutil.get_terminal_size().columns
        self._words = " ".join(arguments)

    def read(self) -> str | None:
        """The text, if there is a valid one."""
        with suppress(OSError, UnicodeDecodeError, RuntimeError):  # of a home folder that is not there
            state, _, text = self._file.read_text(encoding="utf-8").partition("\n")
            return text if state == self._state and text else None
        return None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep what is written to stdout within, unless it ends with an error; it is written when the block ends."""
        written = io.StringIO()
        is_whole = False
        try:
            with redirect_stdout(written):
                yield
            is_whole = True
        except SystemExit as end:
            is_whole = not end.code
            raise
        finally:
            if is_whole:
                with suppress(OSError, RuntimeError):  # the help is the same without a cache
                    atomic_write_text(self._file, f"{self._state}\n{written.getvalue()}")
            sys.stdout.write(written.getvalue())
            sys.stdout.flush()

    @property
    def _file(self) -> Path:
        root = os.environ.get("XDG_CACHE_HOME")
        name = re.sub(r"[^\w.]+", "-", self._words).strip("-")
        return (Path(root) if root else Path.home() / ".cache") / "visualprm" / f"{name}-{self._width}.txt"

    @property
    def _state(self) -> str:
        """Digest of everything that the text depends on."""
        parts = [sys.version, sys.prefix, self._words, *(f"{name} {_version(name)}" for name in _LIBRARIES)]
        root = Path(__file__).parents[2]
        for file in sorted(file for name in _SOURCES for file in (root / name).rglob("*.py")):
            facts = file.stat()
            parts.append(f"{file} {facts.st_mtime_ns} {facts.st_size}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments are a subcommand and an option that shows help, and nothing that could change the text."""
    if not 2 <= len(arguments) <= 3 or not _IS_HELP.fullmatch(arguments[1]):
        return False
    return len(arguments) == 2 or (arguments[1].endswith(".help") and _IS_CLASS.fullmatch(arguments[2]) is not None)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
