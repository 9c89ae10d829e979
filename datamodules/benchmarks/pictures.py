"""Find the pictures that rows of a benchmark name: beside the file, in a folder ``images``, or in an ``images.zip``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from datamodules.storage.archive_parts import ArchiveError
from datamodules.supervision.image_roots import ImageRoot, OpenedRoots

_FOLDER = "images"


class PictureFinder:
    """Turns the picture names of a file's rows into paths, or references of members of an archive, read in place.

    Args:
        folders: That names are relative to, in the order in which they are searched.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(dict.fromkeys(folders))

    def __call__(self, name: str) -> Path | str | None:
        """The picture of a name; None if there is none, or if the name leads out of the folders.

        Raises:
            ArchiveError: If it may be in an archive that cannot be read.
        """
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return None
        for folder in self.folders:
            for path in (folder / name, folder / _FOLDER / name):
                if path.is_file():
                    return path
        spelled = (name, f"{_FOLDER}/{name}", name.removeprefix(f"{_FOLDER}/"))
        found = (archive.find(each) for archive in self._archives for each in spelled)
        return next((reference for reference in found if reference is not None), None)

    @cached_property
    def _archives(self) -> list[ImageRoot]:
        return [root for root in OpenedRoots().with_archives(self.folders) if root.is_archive]

    def optional(self, name: str) -> Path | str | None:
        """The same where pictures may be missing: an archive that cannot be read is as good as none."""
        try:
            return self(name)
        except ArchiveError:
            return None
