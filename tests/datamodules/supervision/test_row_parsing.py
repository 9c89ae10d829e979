import hashlib

import pytest
from released_data import png

from datamodules.supervision.row_parsing import parse_row

RED, BLUE = png((255, 0, 0)), png((0, 0, 255))


def parse(image, question="How many?", name="image"):
    row = {"question": question, name: image, "steps_with_score": [{"step": "a", "score": 0.5}]}
    return parse_row(row, "f:1", "geometry", lambda path: f"/root/{path}", lambda path: path.removeprefix("/root/"))


def embedded(data, path=None):
    return {"bytes": data, "path": path}


@pytest.mark.parametrize(
    ("image", "images", "image_bytes"),
    [
        (None, [], []),
        ("a.png", ["/root/a.png"], []),
        (["a.png", "b.png"], ["/root/a.png", "/root/b.png"], []),
        (embedded(RED), [""], [RED]),
        (embedded(RED, "a.png"), ["a.png"], [RED]),
        (RED, [""], [RED]),
        ([embedded(RED, "a.png"), embedded(BLUE, "b.png")], ["a.png", "b.png"], [RED, BLUE]),
        ([embedded(RED, "a.png"), "b.png"], ["a.png", "/root/b.png"], [RED, None]),
        (embedded(None, "a.png"), ["/root/a.png"], [None]),
        ([], [], []),
    ],
)
@pytest.mark.parametrize("name", ["image", "images"])
def test_images(image, images, image_bytes, name):
    parsed = parse(image, name=name)
    assert parsed["images"] == images
    assert parsed["image_bytes"] == image_bytes


def test_image_columns_beside_each_other():
    """Parquet files have all columns in all rows."""
    row = {"question": "q", "image": None, "images": ["a.png"], "conversations": None}
    row["steps_with_score"] = [{"step": "a", "score": 1, "num_mc_correct": None, "num_mc_total": None}]
    parsed = parse_row(row, "f:1", "geometry", str, str)
    assert parsed["images"] == ["a.png"]
    assert parsed["num_mc_total"] == [-1]


@pytest.mark.parametrize("image", [{"url": "a"}, embedded(None), embedded(b""), embedded(RED, 3), 7, [7], [None], [""]])
def test_what_is_no_image(image):
    if image == embedded(RED, 3):
        assert parse(image)["images"] == [""]
        return
    with pytest.raises(ValueError, match=r"f:1: field 'image' must be a path"):
        parse(image)


def test_a_question_is_its_text_and_its_images():
    keys = {
        parse(image, question)["question_key"]
        for image in (None, "a.png", "b.png", ["a.png", "b.png"], embedded(RED), embedded(BLUE))
        for question in ("How many?", "How few?")
    }
    assert len(keys) == 12
    # The same picture embedded under two names is the same picture.
    assert parse(embedded(RED, "a.png"))["question_key"] == parse(embedded(RED, "b.png"))["question_key"]
    assert parse("a.png")["question_key"] == hashlib.blake2b(b"a.png\0How many?", digest_size=8).hexdigest()
