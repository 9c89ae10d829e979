"""Every kind of picture comes out as RGB, or as an error that says where it is."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.images import MAX_PIXELS, ImageError, check_image, open_image


def encoded(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def gradient(size=(12, 8)) -> Image.Image:
    width, height = size
    values = np.zeros((height, width, 3), np.uint8)
    values[..., 0] = np.arange(width) * 20
    values[..., 1] = np.arange(height)[:, None] * 30
    values[..., 2] = 7
    return Image.fromarray(values)


def test_png_keeps_its_pixels_from_bytes_and_from_a_path(tmp_path):
    image = gradient()
    path = tmp_path / "a.png"
    path.write_bytes(encoded(image))
    for source in (path.read_bytes(), path, str(path)):
        opened = open_image(source, "here")
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), np.asarray(image))
    assert check_image(path, "here") == (12, 8)


def test_16_bit_values_are_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    opened = open_image(encoded(Image.fromarray(values)), "here")
    assert np.asarray(opened)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_is_laid_on_white():
    rgba = Image.new("RGBA", (1, 1), (255, 0, 0, 0))
    assert open_image(encoded(rgba), "here").getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("LA", (1, 1), (0, 51))
    assert open_image(encoded(half), "here").getpixel((0, 0)) == (204, 204, 204)


def test_transparent_palette_entry_is_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    opened = open_image(encoded(palette, transparency=0), "here")
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


@pytest.mark.parametrize(
    ("mode", "image_format"), [("1", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("YCbCr", "JPEG"), ("P", "GIF")]
)
def test_modes_become_rgb(mode, image_format):
    opened = open_image(encoded(Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode), image_format), "here")
    assert opened.mode == "RGB"
    assert min(opened.getpixel((2, 2))) >= 250


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the left column becomes the top row
    image = Image.new("RGB", (16, 8), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    opened = open_image(encoded(image, exif=exif), "here")
    assert opened.size == (8, 16)
    assert opened.getpixel((4, 2)) == (255, 255, 255)
    assert opened.getpixel((4, 14)) == (0, 0, 0)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_truncated_picture_names_its_place(image_format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, image_format)
    with pytest.raises(ImageError, match=r"^rows\.jsonl:3: field 'image': .*cannot be opened"):
        open_image(data[: len(data) // 2], "rows.jsonl:3: field 'image'")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture_is_an_image_error(data):
    with pytest.raises(ImageError, match=r"^here: "):
        open_image(data, "here")
    with pytest.raises(ImageError, match=r"^here: "):
        check_image(data, "here")


def test_missing_file_is_an_image_error_with_its_name(tmp_path):
    with pytest.raises(ImageError, match=r"^here: .*nothing\.png"):
        open_image(tmp_path / "nothing.png", "here")


def test_floating_point_picture_is_refused():
    with pytest.raises(ImageError, match="floating-point"):
        open_image(encoded(Image.new("F", (2, 2)), "TIFF"), "here")


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"IDAT" + zlib.compress(b"\0")
    chunks = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, end))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("side", [8001, 60000])
def test_huge_picture_is_refused_before_it_is_decoded(side):
    assert side * side > MAX_PIXELS
    for read in (open_image, check_image):
        with pytest.raises(ImageError, match=r"^here: .*pixels"):
            read(png_header(side, side), "here")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    st.floats(0.3, 1.0),
)
def test_damaged_files_give_a_picture_or_an_image_error(image_format, damages, kept):
    data = bytearray(encoded(gradient(), image_format))
    for position, value in damages:
        data[position % len(data)] = value
    try:
        opened = open_image(bytes(data[: int(len(data) * kept)]), "here")
    except ImageError as error:
        assert str(error).startswith("here: ")  # noqa: PT017
    else:
        assert opened.mode == "RGB"
