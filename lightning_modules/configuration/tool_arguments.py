"""Types of the arguments of tools: what is out of range, or empty, is refused before anything is read.

An empty word is most often a variable of the shell that is not set, which as a path would mean the present folder.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

MAX_PROCESSES = 1024
"""Of one tool at a time."""


_MOST = 2**31 - 1


def whole_number(minimum: int, maximum: int = _MOST) -> Callable[[str], int]:
    """A type for `argparse`: a whole number in a range, both ends included."""

    def read(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            which = f"of at least {minimum}" if maximum == _MOST else f"from {minimum} to {maximum}"
            raise argparse.ArgumentTypeError(f"must be a whole number {which}, got {_cut(word)!r}")
        return value

    return read


def number(minimum: float, maximum: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A type for `argparse`: a finite number in a range, both ends included; without the lower one if ``above``."""

    def read(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and minimum <= value <= maximum) or (above and value == minimum):
            least = "above" if above else "of at least"
            most = "" if maximum == math.inf else f" and at most {maximum:g}"
            raise argparse.ArgumentTypeError(f"must be a number {least} {minimum:g}{most}, got {_cut(word)!r}")
        return value

    return read


def nonempty_text(word: str) -> str:
    """A type for `argparse`: a text that is not blank and that a file can hold."""
    if not word.strip():
        raise argparse.ArgumentTypeError("is empty; is a variable of the shell not set?")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"must be UTF-8, got {_cut(word)!r}") from None
    return word


def nonempty_path(word: str) -> Path:
    """A type for `argparse`: a path, which may hold whatever the file system allows."""
    if not word.strip():
        raise argparse.ArgumentTypeError("is empty; is a variable of the shell not set?")
    return Path(word)


def file_size(word: str) -> str:
    """A type for `argparse`: a size that `transformers` takes for weight files, such as ``5GB``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)[KMGT]B", word, re.IGNORECASE)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"must be a size such as 5GB, 500MB or 100KB, got {_cut(word)!r}")
    return word


def _cut(word: str) -> str:
    return word if len(word) <= 40 else f"{word[:37]}..."
