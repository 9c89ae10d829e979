"""The pictures of a benchmark question, opened when they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from PIL import Image

from datamodules.conversation.reading_rules import PictureRules
from datamodules.storage.images import open_image


class LazyImages(Sequence[Image.Image]):
    """Pictures that are kept encoded and decoded anew at every access, so that a table of thousands fits in memory.

    Args:
        sources: Bytes of encoded pictures, paths of files, or references of members of archives.
        places: Where each comes from, for error messages.
        rules: How they are converted, see :func:`datamodules.storage.images.open_image`.
    """

    def __init__(
        self, sources: Sequence[bytes | str | Path], places: Sequence[str], rules: PictureRules = "ours"
    ) -> None:
        self.sources = tuple(sources)
        self.places = tuple(places)
        self.rules = rules
        assert len(self.sources) == len(self.places)

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> LazyImages: ...

    def __getitem__(self, index: int | slice) -> Image.Image | LazyImages:
        if isinstance(index, slice):
            return LazyImages(self.sources[index], self.places[index], self.rules)
        return open_image(self.sources[index], self.places[index], self.rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyImages) and self.sources == other.sources

    def __hash__(self) -> int:
        return hash(self.sources)

    def __repr__(self) -> str:
        return f"LazyImages({len(self)} of {self.places})"

    def select(self, indices: Sequence[int]) -> LazyImages:
        """The pictures at ``indices``, in that order and as often as named."""
        return LazyImages([self.sources[i] for i in indices], [self.places[i] for i in indices], self.rules)

    def by_rules(self, rules: PictureRules) -> LazyImages:
        """The same pictures, converted by other rules."""
        return LazyImages(self.sources, self.places, rules)
