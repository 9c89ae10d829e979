"""Unpack archives, completely or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from datamodules.storage.archive_parts import ArchiveError
from datamodules.storage.archives import BROKEN_ARCHIVE_ERRORS, check_member, open_archive, plain_members
from datamodules.storage.files import atomic_folder

_CHUNK = 2**20


def extract_archive(
    path: Path,
    folder: Path,
    *,
    max_bytes: int | None = None,
    max_files: int = 5_000_000,
    progress: Callable[[int], object] = lambda size: None,
) -> int:
    """Unpack a zip archive, in one file or in parts, into a new folder.

    Every member is checked before anything is written. Refused are names outside the folder, links, devices, encrypted
    members, suspicious compression, and archives that are too large or do not fit on the disk. The folder appears when
    it is complete. After an error nothing is left behind.

    Args:
        path: The archive; ``images.zip`` also for parts ``images.zip_aa``, ``images.zip_ab``, ...
        folder: Folder to create; must not exist.
        max_bytes: Most bytes after unpacking; by default the free space of the disk.
        max_files: Most files.
        progress: Called after each written piece with its number of bytes.

    Returns:
        The number of files.

    Raises:
        ArchiveError: If the archive is refused or damaged.
        FileExistsError: If the folder exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    with open_archive(path) as archive:
        members = list(plain_members(archive, path))
        for _, info in members:
            check_member(info, path)
        total, most = sum(info.file_size for _, info in members), free if max_bytes is None else max_bytes
        if total > most or len(members) > max_files:
            raise ArchiveError(
                f"{path}: {len(members)} files of {total} bytes together; at most {max_files} files of {most} bytes "
                f"are allowed (free on the disk: {free} bytes)"
            )
        with atomic_folder(folder) as partial:
            for name, info in members:
                target = partial / name
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as file, archive.open(info) as content:
                        left = info.file_size
                        while piece := content.read(min(_CHUNK, left + 1)):
                            left -= len(piece)
                            if left < 0:
                                raise ArchiveError(f"{path}: the member {name!r} is larger than it says")
                            file.write(piece)
                            progress(len(piece))
                except (FileExistsError, NotADirectoryError) as error:
                    raise ArchiveError(f"{path}: the member {name!r} has the name of another one: {error}") from error
                except BROKEN_ARCHIVE_ERRORS as error:
                    raise ArchiveError(f"{path}: the member {name!r} cannot be unpacked: {error}") from error
    return len(members)


def unpacked_bytes(path: Path) -> int:
    """Bytes of the files of an archive after unpacking, according to its table of contents."""
    with open_archive(path) as archive:
        return sum(info.file_size for info in archive.infolist())
