"""The pictures of a page: each written once, whatever number of questions share it."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from datamodules.storage.archives import parse_reference, read_member
from datamodules.storage.files import atomic_write_bytes
from datamodules.storage.images import ImageError, open_image
from tools.view.contents import Picture

_SHOWN_BY_BROWSERS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"BM": "bmp"}
_JPEG_QUALITY = 85


class PictureStore:
    """Collects pictures and numbers them by content.

    Args:
        page: Path of the page. Pictures are kept beside it, in a folder of its name and ``_pictures``.
        embed: Keep them in the page instead.
        max_side: Larger pictures are scaled down to this many pixels; None keeps all as they are.

    Attributes:
        places: For each picture its path relative to the page, or its kind and base64 text if embedded.
        problems: Why pictures cannot be shown.
    """

    def __init__(self, page: Path, embed: bool = False, max_side: int | None = None) -> None:
        self.folder = page.with_name(f"{page.stem}_pictures")
        self.embed, self.max_side = embed, max_side
        self.places: list[str] = []
        self.problems: list[str] = []
        self._by_content: dict[str, int] = {}
        self._by_source: dict[Picture, int] = {}

    def add(self, pictures: Sequence[Picture], where: str) -> list[int]:
        """The numbers of some pictures in :attr:`places`, -1 for one that cannot be shown.

        Args:
            pictures: Of one question.
            where: Names the question in :attr:`problems`.
        """
        return [self._number(picture, f"{where}: picture {place}") for place, picture in enumerate(pictures, start=1)]

    def _number(self, picture: Picture, where: str) -> int:
        if picture not in self._by_source:
            try:
                self._by_source[picture] = self._keep(picture, where)
            except (ImageError, OSError) as error:
                self.problems.append(str(error) if where in str(error) else f"{where}: {error}")
                self._by_source[picture] = -1
        return self._by_source[picture]

    def _keep(self, picture: Picture, where: str) -> int:
        content = hashlib.blake2b(_content(picture), digest_size=12).hexdigest()
        if content not in self._by_content:
            data, kind = self._shown(picture, where)
            self._by_content[content] = len(self.places)
            self.places.append(self._place(f"{content}.{kind}", data))
        return self._by_content[content]

    def _shown(self, picture: Picture, where: str) -> tuple[bytes, str]:
        """A file that browsers show, and its kind; the picture is decoded, so that what is no picture is refused."""
        opened = open_image(picture, where)
        data = _content(picture)
        kind = next((name for start, name in _SHOWN_BY_BROWSERS.items() if data.startswith(start)), "")
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            kind = "webp"
        side = self.max_side or max(opened.size)
        if kind and max(opened.size) <= side:
            return data, kind
        opened.thumbnail((side, side), Image.Resampling.LANCZOS)
        kind = "jpeg" if kind == "jpeg" else "png"
        file = io.BytesIO()
        opened.save(file, format=kind.upper(), **({"quality": _JPEG_QUALITY} if kind == "jpeg" else {}))
        return file.getvalue(), kind

    def _place(self, name: str, data: bytes) -> str:
        if self.embed:
            return f"{name.rpartition('.')[2]} {base64.b64encode(data).decode('ascii')}"
        path = self.folder / name
        if not path.is_file() or path.stat().st_size != len(data):
            atomic_write_bytes(path, data)
        return f"{self.folder.name}/{name}"


def _content(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    member = parse_reference(picture) if isinstance(picture, str) else None
    return read_member(member) if member is not None else Path(picture).read_bytes()
