"""An archive in several files: the parts that `split` made of a large one, read as one file."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path


class ArchiveError(ValueError):
    """An archive or a member cannot be read, or is refused; the message names it."""


def archive_parts(path: Path) -> list[Path]:
    """The files of an archive, in order; empty if there is no such archive.

    Raises:
        ArchiveError: If a part in the middle is missing.
    """
    if path.is_file():
        return [path]
    parts = sorted(
        p
        for p in path.parent.glob(f"{_literal(path.name)}_*")
        if re.fullmatch(r"_[a-z]{1,3}", p.name[len(path.name) :])
    )
    suffixes = [part.name[len(path.name) + 1 :] for part in parts]
    for index, suffix in enumerate(suffixes):
        expected = _letters(index, len(suffix))
        if suffix != expected:
            raise ArchiveError(f"{path}: the part {path.name}_{expected} is missing; there are {suffixes}")
    return parts


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _letters(index: int, width: int) -> str:
    """The suffixes of `split`: aa, ab, ..., az, ba, ..."""
    text = ""
    for _ in range(width):
        index, letter = divmod(index, 26)
        text = chr(ord("a") + letter) + text
    return text


class JoinedParts(io.RawIOBase):
    """Several files as one seekable file; each read opens a part.

    Args:
        parts: At least one, in order.
    """

    def __init__(self, parts: list[Path]) -> None:
        self.parts = [str(part) for part in parts]
        self.ends: list[int] = []
        for part in parts:
            self.ends.append((self.ends[-1] if self.ends else 0) + part.stat().st_size)
        self.position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position of the joined file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.ends[-1]}[whence]
        if start + offset < 0:
            raise OSError("negative position")
        self.position = start + offset
        return self.position

    def tell(self) -> int:
        """The position in the joined file."""
        return self.position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read at the position, across the ends of parts."""
        data = self.read_at(self.position, len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset``, fewer only at the end; changes no state."""
        pieces = []
        begin = 0
        for name, end in zip(self.parts, self.ends, strict=True):
            if offset < end and size > 0:
                with open(name, "rb", buffering=0) as file:
                    file.seek(offset - begin)
                    while size > 0 and offset < end:
                        piece = file.read(min(size, end - offset))
                        if not piece:
                            raise ArchiveError(f"{name} is shorter than it was; was it changed while it was read?")
                        pieces.append(piece)
                        offset, size = offset + len(piece), size - len(piece)
            begin = end
        return b"".join(pieces)
