import json

import pytest

from datamodules.storage import fields

ROW = {
    "text": "t",
    "blank": " ",
    "one": 1,
    "half": 0.5,
    "yes": True,
    "none": None,
    "list": [1],
    "empty": [],
    "nan": float("nan"),
}


def test_good_fields():
    assert fields.text(ROW, "text", "f:1") == "t"
    assert fields.text(ROW, "blank", "f:1", blank=True) == " "
    assert fields.integer(ROW, "one", "f:1", minimum=1) == 1
    assert fields.number(ROW, "one", "f:1", maximum=1) == 1.0
    assert fields.number(ROW, "half", "f:1", minimum=0, maximum=1) == 0.5
    assert fields.boolean(ROW, "yes", "f:1") is True
    assert fields.items(ROW, "list", "f:1") == [1]


@pytest.mark.parametrize(
    ("read", "name", "options", "message"),
    [
        (fields.text, "missing", {}, "'p.missing' is missing"),
        (fields.text, "one", {}, "'p.one' must be a string, got 1"),
        (fields.text, "blank", {}, "'p.blank' must be a string that is not blank"),
        (fields.integer, "half", {}, "must be an integer, got 0.5"),
        (fields.integer, "yes", {}, "must be an integer, got True"),
        (fields.integer, "one", {"minimum": 2}, "an integer of at least 2, got 1"),
        (fields.number, "nan", {}, "a finite number, got nan"),
        (fields.number, "text", {}, "a finite number, got 't'"),
        (fields.number, "yes", {}, "a finite number, got True"),
        (fields.number, "half", {"minimum": 0, "maximum": 0.25}, r"a finite number in \[0, 0.25\], got 0.5"),
        (fields.boolean, "one", {}, "true or false, got 1"),
        (fields.items, "empty", {}, "a list that is not empty"),
        (fields.items, "none", {}, "a list that is not empty, got None"),
    ],
)
def test_bad_fields_are_named(read, name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        read(ROW, name, "file:3", "p.", **options)
    assert str(error.value).startswith("file:3: field ")


def test_image_names():
    assert fields.image_names({"image": "a.png"}, "f:1") == ["a.png"]
    assert fields.image_names({"image": ["a.png", "b.png"]}, "f:1") == ["a.png", "b.png"]
    for text_only in ({}, {"image": None}, {"image": ""}, {"image": []}):
        assert fields.image_names(text_only, "f:1") == []
    for wrong in (3, {"path": "a"}, ["a", 3], [""], " "):
        with pytest.raises(ValueError, match="f:1: field 'image' must be a path"):
            fields.image_names({"image": wrong}, "f:1")


def test_long_values_are_cut():
    with pytest.raises(ValueError, match="got '" + "x" * 79 + r"\.\.\.$"):
        fields.integer({"a": "x" * 1000}, "a", "f:1")


def test_values_that_no_table_holds_are_named():
    """JSON has whole numbers without a limit and may spell one half of a character of two halves."""
    row = json.loads(f'{{"score": {"1" * 400}, "count": {2**63}, "step": "\\ud800 x", "image": "\\udfff.png"}}')
    for read, name, message in (
        (fields.number, "score", "a finite number"),
        (fields.integer, "count", "64 bits"),
        (fields.text, "step", "valid Unicode"),
    ):
        with pytest.raises(ValueError, match=f"^f:1: field '{name}' must be .*{message}"):
            read(row, name, "f:1")
    with pytest.raises(ValueError, match=r"^f:1: field 'image' must be a path"):
        fields.image_names(row, "f:1")
    assert fields.integer({"a": 2**63 - 1}, "a", "f:1") == 2**63 - 1
    assert fields.text({"a": "\U0001d465"}, "a", "f:1") == "\U0001d465"
