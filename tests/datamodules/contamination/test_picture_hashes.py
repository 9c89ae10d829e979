import io

import numpy as np
from PIL import Image, ImageDraw

from datamodules.contamination.picture_hashes import BITS, PictureIndex, difference_hash, is_featureless


def drawing(seed, size=(160, 120)):
    """Lines and discs on white."""
    generator = np.random.default_rng(seed)
    picture = Image.new("RGB", (160, 120), "white")
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y, other_x, other_y = generator.integers(0, 120, 4).tolist()
        pen.line((x, y, other_x, other_y), fill="black", width=3)
        pen.ellipse((x, y, x + 20, y + 20), fill=tuple(generator.integers(0, 200, 3).tolist()))
    return picture.resize(size)


def bit_by_bit(picture):
    """The definition: is a cell brighter than its right neighbour?"""
    grey = picture.convert("L").resize((17, 16), Image.Resampling.BOX)
    return [grey.getpixel((x, y)) - grey.getpixel((x + 1, y)) >= 2 for y in range(16) for x in range(16)]


def distance(first, second):
    return sum(a != b for a, b in zip(bit_by_bit(first), bit_by_bit(second), strict=True))


def as_jpeg(picture, quality=60):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


def test_copies_are_near_and_others_are_far():
    pictures = [drawing(seed) for seed in range(8)]
    index = PictureIndex([str(seed) for seed in range(8)], [difference_hash(each) for each in pictures])
    for seed, picture in enumerate(pictures):
        for copy in (picture, as_jpeg(picture), picture.resize((320, 240)), picture.point(lambda value: value * 0.9)):
            (match,) = index.best_matches([difference_hash(copy)])
            assert match.key == str(seed)
            assert match.distance <= 12
            assert match.distance == distance(picture, copy)
    others = index.best_matches([difference_hash(drawing(seed)) for seed in range(100, 120)])
    assert min(match.distance for match in others) > 12


def test_many_at_once_against_one_by_one():
    given = [difference_hash(drawing(seed)) for seed in range(300)]
    index = PictureIndex([str(seed) for seed in range(20, 25)], given[20:25])
    found = index.best_matches(given)
    for number in (0, 255, 256, 299):
        counts = {
            seed: int(sum(int(a ^ b).bit_count() for a, b in zip(given[number], given[seed], strict=True)))
            for seed in range(20, 25)
        }
        best = min(counts, key=lambda seed: (counts[seed], seed))
        assert found[number] == (str(best), counts[best])


def test_even_pictures_match_nothing():
    white = difference_hash(Image.new("RGB", (50, 50), "white"))
    assert is_featureless(white)
    index = PictureIndex(["white", "drawing"], [white, difference_hash(drawing(0))])
    assert index.best_matches([white]) == [None]
    assert index.best_matches([difference_hash(drawing(0))])[0] == ("drawing", 0)
    assert PictureIndex([], []).best_matches([difference_hash(drawing(0))]) == [None]
    assert BITS == 256
