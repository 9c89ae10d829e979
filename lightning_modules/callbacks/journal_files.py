"""The journals of a `predict` run on disk: a line for each finished prompt, read as a stream or by prompt."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

_MOST_OPEN = 64
_TAIL = 2**16


@dataclass(frozen=True)
class Entry:
    """What a journal says about a prompt.

    Attributes:
        prompt_id: Of the prompt.
        rows: Rows of the output.
        digest: Of the prompt's content; None in journals of earlier versions.
        problem: Why the prompt was left out; such an entry has no rows, and the next run tries the prompt again.
        costs: What the rows have cost, as far as the module says.
    """

    prompt_id: str
    rows: list[Any]
    digest: str | None = None
    problem: str | None = None
    costs: Mapping[str, float] | None = None

    @property
    def line(self) -> str:
        """For a journal; raises ValueError for NaN and infinities, which JSON cannot hold."""
        fields: dict[str, Any] = {"prompt_id": self.prompt_id, "rows": self.rows, "digest": self.digest}
        added = {"problem": self.problem, "costs": self.costs}
        return json.dumps(fields | {name: value for name, value in added.items() if value}, allow_nan=False) + "\n"

    @classmethod
    def parsed(cls, line: bytes, where: str) -> Entry:
        """The entry on a line.

        Raises:
            ValueError: If there is none; names the place.
        """
        try:
            found = json.loads(line)
            # A list of two is an entry of an earlier version.
            return cls(*found) if isinstance(found, list) else cls(**found)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: not a journal entry ({error}); delete the line") from error


def located_entries(paths: Sequence[Path]) -> Iterator[tuple[Path, int, Entry]]:
    """Path, offset in bytes, and entry, of all journals; a last line without a newline, cut by a kill, is left out."""
    for path in paths:
        offset = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                yield path, offset, Entry.parsed(line, f"{path}:{number}")
                offset += len(line)


def without_torn_line(path: Path) -> None:
    """Remove what stands behind the last newline of a file, if it is there: a line that a kill cut short."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = size = file.seek(0, 2)
        while end > 0:
            begin = max(0, end - _TAIL)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            file.truncate(end)


def has_a_line(path: Path) -> bool:
    """Whether a file has a whole line."""
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


class OpenedJournals:
    """Reads entries at places of many files, of which a few are open at a time."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def entry(self, path: Path, offset: int) -> Entry:
        """The entry that begins at a byte of a file."""
        file = self._files.pop(path, None)
        if file is None:
            if len(self._files) >= _MOST_OPEN:
                self._files.popitem(last=False)[1].close()
            file = path.open("rb")
        self._files[path] = file
        file.seek(offset)
        return Entry.parsed(file.readline(), f"{path}, byte {offset}")
