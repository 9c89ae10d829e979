"""Tables: what is written is read, and every error names its place."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from property_examples import examples

from datamodules.benchmarks.lazy_images import LazyImages
from datamodules.benchmarks.table import encode_image, encode_images, read_table, write_table
from datamodules.storage.images import ImageError

RED, BLUE = (Image.new("RGB", (5, 4), color) for color in ((255, 0, 0), (0, 0, 255)))


def table_of(tmp_path, rows):
    write_table(tmp_path / "t.tsv", rows)
    return read_table(tmp_path / "t.tsv")


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({"a": CELLS, "é\t": CELLS}), min_size=1, max_size=4))
def test_any_cell_survives_writing_and_reading(tmp_path, cells):
    rows = [{"index": str(number), **row} for number, row in enumerate(cells)]
    assert [dict(row.values) for row in table_of(tmp_path, rows)] == rows


def test_pandas_reads_the_same_table_and_cells_stay_strings(tmp_path):
    rows = [{"index": "1", "A": "None", "answer": "007"}, {"index": "2", "A": 'a "b"\n\tc', "answer": "3.0"}]
    write_table(tmp_path / "t.tsv", rows)
    frame = pd.read_csv(tmp_path / "t.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert frame.to_dict("records") == rows
    frame.to_csv(tmp_path / "p.tsv", sep="\t", index=False)  # minimal quotes, as released tables have them
    assert [dict(row.values) for row in read_table(tmp_path / "p.tsv")] == rows


def test_missing_keys_give_empty_cells_and_columns_keep_their_order(tmp_path):
    table = table_of(tmp_path, [{"index": "1", "b": "x"}, {"a": "y", "index": "2"}])
    assert list(table.rows[0].values) == ["index", "b", "a"]
    assert table.rows[0].get("a") == table.rows[0].get("no such column") == ""


def test_line_numbers_count_physical_lines(tmp_path):
    table = table_of(tmp_path, [{"index": "1", "question": "two\nlines"}, {"index": "x", "question": ""}])
    assert table.rows[0].where == f"{tmp_path / 't.tsv'}:2 (index 1)"
    assert table.rows[1].where == f"{tmp_path / 't.tsv'}:4 (index x)"
    with pytest.raises(ValueError, match=re.escape("t.tsv:4 (index x): column 'question' is empty")):
        table.rows[1].require("question")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t\.tsv:1: columns \['index', 'question'\] are missing"),
        ("index\tanswer\n1\tA\n", r"t\.tsv:1: columns \['question'\] are missing; the table has"),
        ("index\tquestion\tquestion\n", r"t\.tsv:1: columns \['question'\] are named more than once"),
        ("index\tquestion\n", r"t\.tsv: the table has no rows"),
        ("index\tquestion\n1\ta\n2\n", r"t\.tsv:3: 1 cells, but the header names 2"),
        ("index\tquestion\n1\ta\tb\n", r"t\.tsv:2: 3 cells, but the header names 2"),
        ("index\tquestion\n1\ta\n1\tb\n", r"t\.tsv:3: column 'index' repeats '1'"),
        ("index\tquestion\n\ta\n", r"t\.tsv:2: column 'index' is empty"),
        ('index\tquestion\n1\t"a\n', r"t\.tsv:2: not a tab-separated table"),
        ('index\tquestion\n1\t"a"b\n', r"t\.tsv:2: not a tab-separated table"),
    ],
)
def test_malformed_tables(tmp_path, text, message):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.tsv", ["question"])


def test_not_utf8_and_not_there(tmp_path):
    (tmp_path / "t.tsv").write_bytes(b"index\tquestion\n1\t\xff\n")
    with pytest.raises(ValueError, match=r"t\.tsv: after line 1: not UTF-8"):
        read_table(tmp_path / "t.tsv")
    with pytest.raises(FileNotFoundError, match=r"no\.tsv"):
        read_table(tmp_path / "no.tsv")


def test_large_cells_and_byte_order_mark(tmp_path):
    csv.field_size_limit(1000)
    (tmp_path / "t.tsv").write_text("\ufeffindex\ta\n1\t" + "x" * 300_000 + "\n")
    assert len(read_table(tmp_path / "t.tsv").rows[0].get("a")) == 300_000


def test_string_lists(tmp_path):
    rows = [{"index": str(n), "c": cell} for n, cell in enumerate(["['Yes', \"don't\"]", "[]", "", "None", "[1, 2.5]"])]
    table = table_of(tmp_path, rows)
    assert [row.string_list("c") for row in table] == [["Yes", "don't"], [], [], [], ["1", "2.5"]]
    bad = table_of(tmp_path, [{"index": "1", "c": "__import__('os').getcwd()"}, {"index": "2", "c": "5"}])
    for row in bad:
        with pytest.raises(ValueError, match=r"column 'c': expected the text of a Python list"):
            row.string_list("c")


def test_image_cells_single_list_reference_and_none(tmp_path):
    table = table_of(
        tmp_path,
        [
            {"index": "1", "image": encode_image(RED)},
            {"index": "2", "image": encode_images([RED, BLUE])},
            {"index": "3", "image": "2"},
            {"index": "4", "image": ""},
        ],
    )
    images = [table.images(row) for row in table]
    assert [len(found) for found in images] == [1, 2, 2, 0]
    assert [image.getpixel((0, 0)) for image in images[2]] == [(255, 0, 0), (0, 0, 255)]
    assert np.array_equal(np.asarray(images[0][0]), np.asarray(RED))
    assert images[1] == images[2] != images[0]
    assert images[1].select([1, 0, 1])[0].getpixel((0, 0)) == (0, 0, 255)
    assert isinstance(images[1][:1], LazyImages)


def test_wrapped_base64_is_read(tmp_path):
    cell = encode_image(RED)
    wrapped = "\n".join(cell[start : start + 76] for start in range(0, len(cell), 76))
    table = table_of(tmp_path, [{"index": "1", "image": wrapped}])
    assert table.images(table.rows[0])[0].size == (5, 4)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("7", "'7' is neither a picture nor the index of a row that has one"),
        ("2", "'2' is neither a picture nor the index"),
        (encode_image(RED) + "!", "not valid base64"),
        ("QUJD" * 30, "cannot be opened as an image"),
        (f"['{encode_image(RED)}', 5]", "expected a list of strings"),
        ("[" + "'" * 70 + "]", "expected the text of a Python list"),
    ],
)
def test_bad_image_cells_name_file_line_and_column(tmp_path, cell, message):
    table = table_of(tmp_path, [{"index": "a", "image": cell}, {"index": "2", "image": "a"}])
    with pytest.raises(ImageError, match=rf"t\.tsv:2 \(index a\): column 'image'.*{message}"):
        table.images(table.rows[0])


def test_truncated_picture_is_found_at_access_and_names_its_place(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    cell = encode_image(noise)
    table = table_of(tmp_path, [{"index": "1", "image": str([encode_image(RED), cell[: len(cell) // 8 * 4]])}])
    images = table.images(table.rows[0])
    assert images[0].size == (5, 4)
    with pytest.raises(ImageError, match=r"t\.tsv:2 \(index 1\): column 'image', picture 2"):
        images[1]


def test_image_paths(tmp_path):
    folder = tmp_path / "images" / "t"
    folder.mkdir(parents=True)
    RED.save(folder / "r.png")
    BLUE.save(tmp_path / "b.png")
    rows = [
        {"index": "1", "image_path": str(["r.png", str(tmp_path / "b.png")])},
        {"index": "2", "image_path": "no.png"},
    ]
    table = table_of(tmp_path, rows)
    assert [image.getpixel((0, 0)) for image in table.images(table.rows[0])] == [(255, 0, 0), (0, 0, 255)]
    with pytest.raises(ImageError, match=r"\(index 2\): column 'image_path'.*no\.png"):
        table.images(table.rows[1])


def test_smallest_picture_is_longer_than_a_reference():
    assert len(encode_image(Image.new("L", (1, 1)))) > 64
