"""Find the pictures of rows, in folders or archives, under the names of the released datasets."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from datamodules.storage.archive_parts import archive_parts
from datamodules.storage.archives import Member, read_contents

_ARCHIVE_NAME = "images.zip"
_INSIDE_ARCHIVE = re.compile(r"zip://(?P<prefix>.*)::(?P<archive>.*)", re.DOTALL)

_RELEASE = re.compile(r"(?:VisualPRM400K|MMPR)[^/]*/")


def spellings(name: str) -> list[str]:
    """Possible names of a picture on disk, given its name in a row; the first that exists is used.

    VisualPRM400K-v1.1-Raw names its pictures "VisualPRM400K-v1.1-Raw/ai2d/1.png" and packs them as "images/ai2d/1.png";
    its rows of nlvr2 say "images/train-1-0-img0.png" for what is packed as "images/nlvr2/images/train-1-0-img0.png".
    """
    short = _RELEASE.sub("", name, count=1) if _RELEASE.match(name) else name
    nested = [f"images/nlvr2/{name}"] if name.startswith("images/") else []
    return list(dict.fromkeys([name, short, f"images/{short}", *nested]))


class ImageRoot:
    """A folder or an archive that the image names of an annotation file are relative to.

    Args:
        path: A folder; a zip archive, in one file or in parts; or ``zip://folder::archive``, a folder in an archive.

    Raises:
        FileNotFoundError: If it does not exist.
        ArchiveError: If the archive cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        inside = _INSIDE_ARCHIVE.fullmatch(str(path))
        self.prefix = f"{inside['prefix'].strip('/')}/" if inside and inside["prefix"].strip("/") else ""
        self.path = Path(inside["archive"]) if inside else Path(path)
        self.is_archive = not self.path.is_dir() and bool(archive_parts(self.path))
        if not self.is_archive and not self.path.is_dir():
            raise FileNotFoundError(f"image_root: {path} is neither a folder nor a zip archive")
        self._contents: dict[str, Member] | None = None
        self._folders: dict[str, bool] = {}

    @property
    def folder(self) -> Path:
        """The folder of the pictures, or the one that they would have if the archive were unpacked beside it."""
        return self.path.parent / self.prefix if self.is_archive else self.path

    @property
    def contents(self) -> dict[str, Member]:
        """The members of the archive by name."""
        if self._contents is None:
            self._contents = read_contents(self.path)
        return self._contents

    def find(self, name: str) -> str | None:
        """The path, or the reference of an archive member, of a picture; None if there is no such picture."""
        if self.is_archive:
            member = self.contents.get(self.prefix + name.replace("\\", "/").removeprefix("./"))
            return member.reference() if member else None
        path = os.path.join(self.path, name)
        folder = os.path.dirname(path)
        # Where looking is slow, looking in vain for every picture would be the slowest.
        there = self._folders.get(folder)
        if there is None:
            there = self._folders[folder] = os.path.isdir(folder)
        return path if there and os.path.isfile(path) else None

    def signature(self) -> list[object]:
        """What the references of this root depend on, as far as known without checking every picture."""
        files = archive_parts(self.path) if self.is_archive else []
        states = [part.stat() for part in files]
        return [str(self.path), self.prefix, [[s.st_size, s.st_mtime_ns] for s in states]]


def default_roots(folder: Path) -> list[Path]:
    """Default image roots: the folder of the annotations, else that of a released dataset."""
    return [folder, folder.parent] if folder.name == "annotations" else [folder]


class OpenedRoots:
    """Image roots by path, so that many annotation files share the table of contents of one archive."""

    def __init__(self) -> None:
        self._roots: dict[str, ImageRoot] = {}

    def __getitem__(self, path: str | Path) -> ImageRoot:
        if str(path) not in self._roots:
            self._roots[str(path)] = ImageRoot(path)
        return self._roots[str(path)]

    def with_archives(self, paths: Sequence[str | Path]) -> list[ImageRoot]:
        """The roots at some paths, each followed by the ``images.zip`` in it."""
        found: list[ImageRoot] = []
        for root in map(self.__getitem__, paths):
            found.append(root)
            if not root.is_archive and archive_parts(root.path / _ARCHIVE_NAME):
                found.append(self[root.path / _ARCHIVE_NAME])
        return found


class ImageFinder:
    """Turns the image names of one annotation file into paths or references.

    Args:
        roots: Image roots, searched in this order.
        look: Check every picture in folders. If False, the first picture is checked and the others are assumed to be in
            the same root; for slow file systems.
    """

    def __init__(self, roots: Sequence[ImageRoot], look: bool = True) -> None:
        self.look = look
        self.roots = list(roots)
        self._last: tuple[ImageRoot, int] | None = None

    def __call__(self, name: str) -> str:
        """The path or reference of a picture; a path in the first root if there is no such picture."""
        names = spellings(name)
        if self._last and not self.look and not self._last[0].is_archive and self._last[1] < len(names):
            root, spelling = self._last
            return str(root.path / names[spelling])
        for root in self.roots:
            for spelling, spelled in enumerate(names):
                reference = root.find(spelled)
                if reference is not None:
                    self._last = root, spelling
                    return reference
        return str(self.roots[0].path / name)
