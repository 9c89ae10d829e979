"""The only place where image files are opened: returns an RGB picture, or raises an error with a place."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from datamodules.conversation.reading_rules import PictureRules
from datamodules.storage.archives import parse_reference, read_member

MAX_PIXELS = 64_000_000
"""Pictures with more pixels than this are refused before they are decoded (a small file can hold a huge picture)."""

Image.init()
# Only formats that Pillow decodes itself: for EPS it would run Ghostscript on whatever program the file holds.
_FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "TGA", "ICO", "AVIF")
    if name in Image.OPEN
)

_BROKEN_FILE_ERRORS = (
    OSError,  # not an image, or truncated
    SyntaxError,  # broken PNG chunks
    ValueError,
    TypeError,  # broken tags
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageError(ValueError):
    """A picture cannot be used; the message names its place and the reason."""


_HEADER_BYTES = 2**16
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def check_image(source: Path | str | bytes, where: str, *, upright: bool = False) -> tuple[int, int]:
    """Read the size of a picture from its header, without decoding it.

    Args:
        source: Path of the file, reference of a member of an archive, or its bytes.
        where: Place for error messages, for instance ``"table.tsv:7: column 'image'"``.
        upright: Return the size after the rotation in its EXIF data.

    Returns:
        Width and height in pixels; after the EXIF rotation if ``upright``, else before it.

    Raises:
        ImageError: If it is not an image or has more than :data:`MAX_PIXELS` pixels.
    """
    member = parse_reference(source) if isinstance(source, str) else None
    if member is not None and member.size > _HEADER_BYTES:
        try:
            return check_image(read_member(member, _HEADER_BYTES), where, upright=upright)
        except (ImageError, ValueError, OSError):
            pass  # the header may be longer, and what is wrong is said better with the name of the member
    try:
        with Image.open(_as_file(source), formats=_FORMATS) as image:
            _check_size(image, where)
            # The method of the base class, since that of PNG files decodes the picture first.
            is_turned = upright and Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
            return (image.height, image.width) if is_turned else image.size
    except ImageError:
        raise
    except _BROKEN_FILE_ERRORS as error:
        raise ImageError(f"{where}: {_describe(source)} cannot be opened as an image: {error}") from error


def open_image(source: Path | str | bytes, where: str, rules: PictureRules = "ours") -> Image.Image:
    """Open and decode a picture.

    The EXIF rotation is applied, transparency is put on white, 16-bit values are scaled to 8 bits, and of an animation
    the first frame is taken. CMYK is converted without a colour profile, as in PIL. A truncated file is an error.

    By ``released`` rules the picture goes through Pillow's ``convert("RGB")`` and nothing else, as in the released
    scorer and training: it is not rotated, transparent pixels show their hidden colours, mostly black, and 16-bit
    values are clipped to white.

    Args:
        source: Path of the file, reference of a member of an archive, or its bytes.
        where: Place for error messages, for instance ``"rows.jsonl:3: field 'image'"``.
        rules: See :class:`datamodules.conversation.reading_rules.ReadingRules`.

    Returns:
        The decoded picture in mode RGB.

    Raises:
        ImageError: If the file is missing, is not an image, is truncated, has a mode without colours, or has more than
            :data:`MAX_PIXELS` pixels; the message begins with `where`.
    """
    try:
        with Image.open(_as_file(source), formats=_FORMATS) as image:
            return decoded(image, where, rules)
    except ImageError:
        raise
    except _BROKEN_FILE_ERRORS as error:
        raise ImageError(f"{where}: {_describe(source)} cannot be opened as an image: {error}") from error


def decoded(image: Image.Image, where: str, rules: PictureRules = "ours") -> Image.Image:
    """Convert a picture that PIL has opened, as :func:`open_image` does.

    Args:
        image: The picture; it is not changed.
        where: Place for error messages.
        rules: See :func:`open_image`.

    Raises:
        TypeError: If it is not a picture.
        ImageError: See :func:`open_image`.
        OSError: If its file is broken.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"{where} must be a PIL image, got {type(image).__name__}; open it first, with Image.open")
    _check_size(image, where)
    image.load()
    if rules == "released":
        return image.convert("RGB")
    return _to_rgb(ImageOps.exif_transpose(image), where)


def _as_file(source: Path | str | bytes) -> Path | io.BytesIO:
    member = parse_reference(source) if isinstance(source, str) else None
    if member is not None:
        return io.BytesIO(read_member(member))
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source)


def _describe(source: Path | str | bytes) -> str:
    if isinstance(source, bytes):
        return f"a picture of {len(source)} bytes"
    return repr(str(source).partition("#")[0] if str(source).startswith("zip://") else str(source))


def _check_size(image: Image.Image, where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{where}: the picture has {width} x {height} pixels; at most {MAX_PIXELS} are allowed, shrink it"
        )


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode == "F":
        raise ImageError(
            f"{where}: pictures of floating-point values have no defined colours; save it with 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        # Mode I holds 16-bit PNGs in some versions of Pillow; values of at most 255 are 8-bit values in a wide type.
        scaled = values // 257 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else values
        return Image.fromarray(scaled.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
