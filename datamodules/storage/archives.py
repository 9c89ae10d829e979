"""Read pictures and annotations in zip archives, in place and by any number of processes.

An archive is one file, or the parts ``images.zip_aa``, ``images.zip_ab``, ... of a large one; their concatenation is
the archive. Its table of contents is read once, when rows are indexed. Every row then stores the offset of its member,
so a DataLoader worker opens the file, reads one member and closes it; workers share nothing. No library does it:
`zipfile` reads no parts, and reads the whole table of contents each time that an archive is opened.
"""

from __future__ import annotations

import functools
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.storage.archive_parts import ArchiveError, JoinedParts, archive_parts

MAX_MEMBER_BYTES = 256 * 2**20
"""Members that unpack to more are refused when they are read as pictures."""
MAX_MEMBERS = 10_000_000
"""Archives with more members are refused."""
MAX_COMPRESSION_RATIO = 200
"""Members of over a mebibyte that unpack to more than so many times their packed size are refused."""
_SMALL_BYTES = 2**20
_LOCAL_HEADER = struct.Struct("<4s2xHH12x4xHH")  # signature, flags, method, name length, extra length
_ENCRYPTED = 0x1
BROKEN_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    struct.error,
    NotImplementedError,  # a version or a method that zipfile does not know
    UnicodeDecodeError,
    OverflowError,
)
"""What reading a damaged archive may raise."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_REFERENCE = re.compile(r"zip://(?P<name>.*)::(?P<archive>.*)#(?P<numbers>\d+(?:\+\d+){4})", re.DOTALL)


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        archive: Path of the archive; it need not exist if its parts do.
        name: Name of the member.
        offset: Offset of the member's header, in bytes from the beginning.
        packed: Bytes in the archive.
        size: Bytes after unpacking.
        checksum: CRC-32 of the unpacked bytes.
        method: Compression method of the zip format.
    """

    archive: str
    name: str
    offset: int
    packed: int
    size: int
    checksum: int
    method: int

    def reference(self) -> str:
        """A text for :func:`parse_reference`: a zip URL with the member's place as its fragment."""
        return f"zip://{self.name}::{self.archive}#{'+'.join(map(str, self[2:]))}"


def parse_reference(text: str) -> Member | None:
    """The member of a text that :meth:`Member.reference` wrote; None for any other text."""
    found = _REFERENCE.fullmatch(text) if text.startswith("zip://") else None
    if found is None:
        return None
    return Member(found["archive"], found["name"], *map(int, found["numbers"].split("+")))


@functools.lru_cache(maxsize=64)
def _parts(archive: str) -> JoinedParts:
    parts = archive_parts(Path(archive))
    if not parts:
        raise ArchiveError(f"{archive}: there is no such archive")
    return JoinedParts(parts)


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open the archive at a path, in one file or in parts.

    Raises:
        ArchiveError: If it does not exist, is not a zip archive, or has too many members.
    """
    parts = archive_parts(path)
    if not parts:
        raise ArchiveError(f"{path}: there is no such archive")
    try:
        archive = zipfile.ZipFile(io.BufferedReader(JoinedParts(parts)))
    except BROKEN_ARCHIVE_ERRORS as error:
        more = " (is its last part missing?)" if len(parts) > 1 or parts[0] != path else ""
        raise ArchiveError(f"{path}: not a zip archive that can be read: {error}{more}") from error
    if len(archive.infolist()) > MAX_MEMBERS:
        raise ArchiveError(f"{path}: {len(archive.infolist())} members; at most {MAX_MEMBERS} are allowed")
    return archive


def safe_name(info: zipfile.ZipInfo, archive: Path) -> str:
    """The name of a member without ``.`` parts.

    Raises:
        ArchiveError: If it is absolute, leaves the archive's folder, or holds a character that file systems refuse.
    """
    # ZipFile cuts names at a null byte; look at what was stored.
    stored = info.orig_filename.replace("\\", "/")
    parts = stored.split("/")
    drive = len(stored) > 1 and stored[1] == ":"
    if stored.startswith("/") or drive or ".." in parts or "\0" in stored or not stored.strip("./"):
        raise ArchiveError(f"{archive}: the member {info.orig_filename!r} lies outside of the archive's folder")
    return "/".join(part for part in parts if part not in (".", ""))


def check_member(info: zipfile.ZipInfo, archive: Path) -> None:
    """Refuse members that are not plain files, are encrypted, or unpack to suspiciously much.

    Raises:
        ArchiveError: With the member's name and the reason.
    """
    kind = stat.S_IFMT(info.external_attr >> 16)
    problem = ""
    if kind not in (0, stat.S_IFREG):
        problem = "is a link or a device, not a file"
    elif info.flag_bits & _ENCRYPTED:
        problem = "is encrypted"
    elif info.compress_type not in _METHODS:
        problem = f"has compression method {info.compress_type}; only stored and deflated members are read"
    elif info.file_size > _SMALL_BYTES and info.file_size > MAX_COMPRESSION_RATIO * max(1, info.compress_size):
        problem = (
            f"unpacks from {info.compress_size} to {info.file_size} bytes, more than {MAX_COMPRESSION_RATIO} times as "
            f"many"
        )
    if problem:
        raise ArchiveError(f"{archive}: the member {info.filename!r} {problem}")


def plain_members(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Names and entries of the files in an archive, without folders.

    Raises:
        ArchiveError: See :func:`safe_name`; also if two members have one name.
    """
    seen: set[str] = set()
    for info in archive.infolist():
        name = safe_name(info, path)
        if info.is_dir():
            continue
        if name in seen:
            raise ArchiveError(f"{path}: two members have the name {name!r}")
        seen.add(name)
        yield name, info


def read_contents(path: Path) -> dict[str, Member]:
    """The files of an archive by name.

    Raises:
        ArchiveError: See :func:`open_archive` and :func:`plain_members`.
    """
    text = str(path)
    _parts.cache_clear()
    with open_archive(path) as archive:
        return {
            name: Member(
                text,
                info.orig_filename,
                info.header_offset,
                info.compress_size,
                info.file_size,
                info.CRC,
                _method(info, path),
            )
            for name, info in plain_members(archive, path)
        }


_REFUSED = 65535  # a compression method that the format does not know


def _method(info: zipfile.ZipInfo, path: Path) -> int:
    """The compression method; :data:`_REFUSED` for a member that must not be read, which is an error when it is."""
    try:
        check_member(info, path)
    except ArchiveError:
        return _REFUSED
    return info.compress_type


def read_member(member: Member, limit: int | None = None) -> bytes:
    """The unpacked bytes of a member.

    Args:
        member: Member from :func:`read_contents`.
        limit: Read at most this many bytes from the beginning, without checking the checksum.

    Raises:
        ArchiveError: If the member is refused or damaged, or the archive is not the one that was indexed.
        OSError: If the archive cannot be read.
    """
    where = f"{member.archive}: the member {member.name!r}"
    if member.method not in _METHODS:
        with open_archive(Path(member.archive)) as archive:
            for info in archive.infolist():
                if info.header_offset == member.offset:
                    check_member(info, Path(member.archive))
        raise ArchiveError(f"{where} must not be read")
    if member.size > MAX_MEMBER_BYTES:
        raise ArchiveError(f"{where} has {member.size} bytes; at most {MAX_MEMBER_BYTES} are allowed")
    file = _parts(member.archive)
    header = file.read_at(member.offset, _LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise ArchiveError(f"{where} lies behind the end; the archive has changed since it was indexed")
    signature, flags, method, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    name = file.read_at(member.offset + _LOCAL_HEADER.size, name_length)
    expected = member.name.encode("utf-8" if flags & 0x800 else "cp437", "replace")
    if signature != b"PK\x03\x04" or method != member.method or name != expected:
        raise ArchiveError(f"{where} is not where it was; the archive has changed since it was indexed")
    start = member.offset + _LOCAL_HEADER.size + name_length + extra_length
    packed = member.packed if limit is None else min(member.packed, limit)
    data = file.read_at(start, packed)
    size = member.size if limit is None else min(member.size, limit)
    if method == zipfile.ZIP_DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            raise ArchiveError(f"{where} is damaged: {error}") from error
    data = data if limit is None else data[:size]
    if limit is None and (len(data) != size or zlib.crc32(data) != member.checksum):
        raise ArchiveError(f"{where} is damaged: size or checksum are not those of the table of contents")
    return data
