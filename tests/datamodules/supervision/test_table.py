import os

import pytest

from datamodules.supervision import table as table_module
from datamodules.supervision.annotation_files import find_annotation_files
from datamodules.supervision.rows import FEATURES, read_rows
from datamodules.supervision.table import open_table, remembered_digest, table_path, write_table


def row(number, data=()):
    names = {"sample_id": f"f:{number}", "source": "s", "question_key": "k", "question": "q", "problem": ""}
    names |= {"question_accuracy": None, "num_mc_stopping": ""}
    names |= {"blank_steps": 0, "question_bare": "q", "system_prompt": None}
    scores = {"mc": [0.5], "num_mc_correct": [1], "num_mc_total": [2]}
    return {**names, **scores, "images": [""] * len(data), "image_bytes": list(data), "steps": ["a"]}


def test_rows_are_streamed(tmp_path, monkeypatch):
    """No more rows are held than a batch has: earlier ones are in the file before later ones are asked for."""
    monkeypatch.setattr(table_module, "_ROWS_PER_BATCH", 10)
    sizes = []

    def rows():
        for number in range(35):
            (partial,) = tmp_path.glob(".a.arrow.*")
            sizes.append(partial.stat().st_size)
            yield row(number, [bytes(5000)])

    write_table(tmp_path / "a.arrow", rows(), FEATURES)
    assert sizes[9] < 50_000 <= sizes[11] < sizes[21] < sizes[31]
    table = open_table(tmp_path / "a.arrow")
    assert table["sample_id"][:] == [f"f:{number}" for number in range(35)]
    assert [file["filename"] for file in table.cache_files] == [str(tmp_path / "a.arrow")]


def test_large_pictures_make_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "_BYTES_PER_BATCH", 1000)
    write_table(tmp_path / "a.arrow", [row(n, [bytes(600), None]) for n in range(4)], FEATURES)
    table = open_table(tmp_path / "a.arrow")
    assert [chunk.num_rows for chunk in table.data.to_batches()] == [2, 2]
    assert table[3]["image_bytes"] == [bytes(600), None]


def test_an_interrupted_table_is_not_there(tmp_path):
    def rows():
        yield row(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(tmp_path / "a.arrow", rows(), FEATURES)
    assert not list(tmp_path.glob("*.arrow*")) or [p.name for p in tmp_path.iterdir()] == ["a.arrow.lock"]
    write_table(tmp_path / "a.arrow", [row(1)], FEATURES)
    write_table(tmp_path / "a.arrow", iter(()), FEATURES)  # there already: the rows are not asked for
    assert open_table(tmp_path / "a.arrow")["sample_id"][:] == ["f:1"]


def test_the_path_follows_the_identity(tmp_path):
    first = table_path(tmp_path, {"file": "a", "digest": "1"})
    assert table_path(tmp_path, {"digest": "1", "file": "a"}) == first
    assert table_path(tmp_path, {"file": "a", "digest": "2"}) != first


def test_digests_are_remembered_until_a_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    (file,) = find_annotation_files([path])
    computed = []
    digest_of = table_module.content_digest
    monkeypatch.setattr(table_module, "content_digest", lambda each: computed.append(each) or digest_of(each))
    digests = [remembered_digest(file, tmp_path / "cache") for _ in range(3)]
    assert len(computed) == 1
    os.utime(path, (0, 0))
    digests.append(remembered_digest(file, tmp_path / "cache"))
    assert len(computed) == 2
    assert len(set(digests)) == 1


def test_a_change_right_after_a_digest_is_seen(tmp_path):
    """Of the same size, as soon as may be: time stamps must have moved on by then."""
    path = tmp_path / "a.jsonl"
    (tmp_path / "cache").mkdir()
    seen = []
    for number in range(10):
        path.write_text(f"{number}\n")
        (file,) = find_annotation_files([path])
        seen.append(remembered_digest(file, tmp_path / "cache"))
    assert len(set(seen)) == 10


def test_one_changed_file_leaves_the_tables_of_others(tmp_path, pictures, write_lines, raw_row):
    for name in ("a", "b"):
        write_lines(tmp_path / "rows" / f"{name}.jsonl", [raw_row(question=name, image=None)])
    options = {"cache_dir": tmp_path / "cache"}
    before = read_rows([tmp_path / "rows"], **options)
    write_lines(tmp_path / "rows" / "b.jsonl", [raw_row(question="c", image=None)])
    after = read_rows([tmp_path / "rows"], **options)
    assert after["question"][:] == ["a", "c"]
    assert before.cache_files[0] == after.cache_files[0]
    assert before.cache_files[1] != after.cache_files[1]
