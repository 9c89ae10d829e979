"""Pictures as the rows of training libraries hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.conversation.reading_rules import PictureRules
from datamodules.storage.images import decoded, open_image


def pictures_of(value: Any, where: str, rules: PictureRules = "ours") -> list[Image.Image]:
    """The pictures of a row: one or a list of PIL images, paths, bytes, or objects of `datasets` with one of them.

    Args:
        value: None and an empty list stand for no picture.
        where: Of the row and its column, for errors.
        rules: How pictures are converted.

    Raises:
        TypeError: If a value is none of these.
        ValueError: If a picture cannot be opened.
    """
    if value is None:
        return []
    # An array of NumPy is what verl makes of a list.
    values = value.tolist() if type(value).__name__ == "ndarray" else value
    if not isinstance(values, list | tuple):
        return [_picture(values, where, rules)]
    return [_picture(each, f"{where}, picture {number}", rules) for number, each in enumerate(values)]


def _picture(value: Any, where: str, rules: PictureRules) -> Image.Image:
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("bytes", "path", "image", "url") if value.get(name)), value)
    if isinstance(value, Image.Image):
        return decoded(value, where, rules)
    if isinstance(value, str | Path | bytes):
        source = value.removeprefix("file://") if isinstance(value, str) else value
        return open_image(source, where, rules)
    raise TypeError(
        f"{where}: must be a PIL image, the path of a file, its bytes, or an object with 'path' or 'bytes', got "
        f"{type(value).__name__}"
    )
