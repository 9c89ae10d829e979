"""Every kind of picture comes out as RGB, or as an error that says where it is."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from property_examples import examples
from released_data import write_zip

from datamodules.storage.archives import read_contents
from datamodules.storage.images import MAX_PIXELS, ImageError, check_image, open_image


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


@settings(max_examples=examples(150), deadline=None)
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


def test_cmyk_keeps_its_colours():
    """Pure inks: cyan has no red, magenta no green, yellow no blue."""
    for ink, channel in (((255, 0, 0, 0), 0), ((0, 255, 0, 0), 1), ((0, 0, 255, 0), 2)):
        opened = open_image(encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95), "here")
        colour = opened.getpixel((8, 8))
        assert colour[channel] < 40
        assert min(value for index, value in enumerate(colour) if index != channel) > 180


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_in_every_format(image_format):
    values = np.array([[0, 128, 255, 256, 32768, 65535]], np.uint16)
    opened = open_image(encoded(Image.fromarray(values), image_format), "here")
    assert np.asarray(opened)[0, :, 1].tolist() == [value // 257 for value in values[0].tolist()]


def test_dark_16_bit_grey_stays_dark():
    """All values below 256: nearly black in 16 bits, and not a bright picture of 8 bits."""
    opened = open_image(encoded(Image.fromarray(np.full((4, 4), 255, np.uint16))), "here")
    assert opened.getpixel((0, 0)) == (0, 0, 0)


def png_of(bit_depth: int, colour_type: int, row: bytes, size: tuple[int, int] = (1, 1)) -> bytes:
    """A PNG written chunk by chunk, for kinds that Pillow reads but does not write."""
    header = b"IHDR" + struct.pack(">IIBBBBB", *size, bit_depth, colour_type, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" + row)
    chunks = b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_16_bit_colours_and_transparency():
    half = 32896  # 128 of 255
    assert open_image(png_of(16, 2, struct.pack(">3H", 65535, half, 0)), "here").getpixel((0, 0)) == (255, 128, 0)
    # Grey with transparency: black at half of the opacity on white, and fully transparent.
    for alpha, expected in ((half, 127), (0, 255), (65535, 0)):
        opened = open_image(png_of(16, 4, struct.pack(">2H", 0, alpha)), "here")
        assert opened.getpixel((0, 0)) == (expected,) * 3
    colours = open_image(png_of(16, 6, struct.pack(">4H", 65535, 0, 0, 0)), "here")
    assert colours.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations(orientation):
    """The corner that a viewer shows at the top left, for each way that a camera may have been held."""
    corners = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    image = Image.new("RGB", (32, 16), (0, 0, 0))
    x, y = corners[orientation]
    image.paste((255, 255, 255), (16 * x, 8 * y, 16 * x + 16, 8 * y + 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image_format in ("JPEG", "PNG"):
        opened = open_image(encoded(image, image_format, exif=exif), "here")
        assert opened.size == ((32, 16) if orientation <= 4 else (16, 32))
        assert opened.getpixel((2, 2))[0] > 240
        assert opened.getpixel((opened.width - 3, opened.height - 3))[0] < 15


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(data, "here").getpixel((0, 0)) == (255, 0, 0)


def test_pictures_in_archives(tmp_path):
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)))
    comment = encoded(gradient(), "JPEG", comment=b"x" * 60_000, exif=b"Exif\0\0" + b"y" * 60_000)
    members = {"noise.png": noise, "late header.jpg": comment, "cut.png": noise[: len(noise) // 2], "a.txt": b"text"}
    archive = write_zip(tmp_path / "images.zip", members)
    found = {name: member.reference() for name, member in read_contents(archive).items()}
    for name, size in (("noise.png", (200, 200)), ("late header.jpg", (12, 8)), ("cut.png", (200, 200))):
        assert check_image(found[name], "here") == size
    assert np.array_equal(np.asarray(open_image(found["noise.png"], "here")), np.asarray(open_image(noise, "here")))
    for name in ("cut.png", "a.txt"):
        with pytest.raises(ImageError, match=rf"^here: 'zip://{name}::.*images.zip' cannot be opened"):
            open_image(found[name], "here")
    with pytest.raises(ImageError, match=r"^here: 'zip://a.txt"):
        check_image(found["a.txt"], "here")


def test_a_postscript_program_is_no_picture(tmp_path, monkeypatch):
    """Pillow hands EPS files to Ghostscript where there is one; a program of that name tells whether it was started."""
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", str(program))
    file = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(w) (w) file\nshowpage\n"
    for read in (check_image, open_image):
        with pytest.raises(ImageError, match=r"^here: "):
            read(file, "here")
    assert not started.exists()


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.new("RGBA", (3, 2), (255, 0, 0, 0))),
        encoded(Image.new("LA", (3, 2), (0, 51))),
        encoded(Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))),
        turned(gradient()),
        encoded(gradient()),
        encoded(Image.new("CMYK", (4, 4), (10, 200, 30, 40)), "JPEG"),
    ],
    ids=["transparent", "grey and alpha", "16 bits", "turned", "plain", "cmyk"],
)
def test_released_rules_are_pillow_s_plain_conversion(data):
    plain = Image.open(io.BytesIO(data)).convert("RGB")
    opened = open_image(data, "here", "released")
    assert opened.size == plain.size
    assert np.array_equal(np.asarray(opened), np.asarray(plain))
