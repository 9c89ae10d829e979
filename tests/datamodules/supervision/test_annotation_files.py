import io

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Picture
from released_data import AI2D, GEOMETRY, NLVR2, TEXT, jsonl, raw_rows, write_raw_release, write_zip

from datamodules.supervision.annotation_files import content_digest, find_annotation_files


def rows_of(files):
    return [row for file in files for _, row in file.rows()]


def places_of(files):
    return [place for file in files for place, _ in file.rows()]


@pytest.fixture
def dataset():
    return Dataset.from_list([{"question": f"q{n}", "n": n} for n in range(5)])


def test_files_and_folders(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl", "notes.txt", "images.zip"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    files = find_annotation_files([tmp_path, tmp_path / "a.jsonl"])
    names = [str(file.path.relative_to(tmp_path)) for file in files]
    assert names == ["a.jsonl", "b.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl"]
    assert [file.source for file in files] == ["a", "b", "c", "d"]
    assert [file.source for file in find_annotation_files([tmp_path / "sub" / "*.jsonl"])] == ["c"]
    assert [file.source for file in find_annotation_files([f"{tmp_path}/**/?.jsonl"])] == ["a", "b", "c", "d"]
    (tmp_path / "empty").mkdir()
    for missing in ("nothing.jsonl", "empty", "nothing*.jsonl"):
        with pytest.raises(FileNotFoundError, match="neither a JSONL or parquet file"):
            find_annotation_files([tmp_path / missing])


def test_the_released_archive(tmp_path):
    release = write_raw_release(tmp_path)
    for given in (release, release / "annotations.zip"):
        files = find_annotation_files([given])
        assert [file.source for file in files] == sorted([AI2D, GEOMETRY, NLVR2, TEXT])
        assert {file.source: [row for _, row in file.rows()] for file in files} == raw_rows()
    assert places_of(files)[:2] == [f"{release}/annotations.zip/annotations/{AI2D}.jsonl:{line}" for line in (1, 2)]
    # Once it is unpacked beside the archive, rows must not be read twice.
    (release / "annotations").mkdir()
    (release / "annotations" / "ai2d.jsonl").write_bytes(jsonl(raw_rows()[AI2D]))
    assert [file.source for file in find_annotation_files([release])] == ["ai2d"]


def test_a_file_of_an_archive(tmp_path):
    release = write_raw_release(tmp_path)
    (file,) = find_annotation_files([f"zip://annotations/{AI2D}.jsonl::{release}/annotations.zip"])
    assert rows_of([file]) == raw_rows()[AI2D]
    (missing,) = find_annotation_files([f"zip://annotations/none.jsonl::{release}/annotations.zip"])
    with pytest.raises(ValueError, match=r"there is no member 'annotations/none.jsonl'"):
        list(missing.rows())


def test_parquet_files_and_shards(tmp_path, dataset):
    folder = tmp_path / "geometry"
    (folder / "data").mkdir(parents=True)
    for shard in range(2):
        part = dataset.shard(2, shard, contiguous=True)
        part.to_parquet(folder / "data" / f"train-{shard:05d}-of-00002.parquet")
    dataset.to_parquet(tmp_path / "single.parquet")
    files = find_annotation_files([folder, tmp_path / "single.parquet"])
    assert [file.source for file in files] == ["geometry", "geometry", "single"]
    assert [row["n"] for row in rows_of(files)] == [0, 1, 2, 3, 4] * 2
    assert places_of(files)[2:5] == [
        f"{folder}/data/train-00000-of-00002.parquet:3",
        f"{folder}/data/train-00001-of-00002.parquet:1",
        f"{folder}/data/train-00001-of-00002.parquet:2",
    ]
    (folder / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(ValueError, match=r"train-00001-of-00002.parquet: cannot be read"):
        rows_of(files)


def test_saved_datasets(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "geometry", num_shards=2)
    DatasetDict({"train": dataset}).save_to_disk(tmp_path / "algebra")
    for name in ("geometry", "algebra"):
        (file,) = find_annotation_files([tmp_path / name])
        assert file.source == name
        assert [row["n"] for row in rows_of([file])] == [0, 1, 2, 3, 4]
    assert [file.source for file in find_annotation_files([tmp_path])] == ["algebra", "geometry"]
    DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "both")
    with pytest.raises(ValueError, match=r"both is a dataset with the splits \['test', 'train'\]; name one of them"):
        find_annotation_files([tmp_path / "both"])
    (file,) = find_annotation_files([tmp_path / "both" / "test"])
    assert len(rows_of([file])) == 5


def test_embedded_pictures_are_not_decoded(tmp_path):
    buffer = io.BytesIO()
    Picture.new("RGB", (4, 4)).save(buffer, "PNG")
    features = Features({"image": Image(), "images": List(Image()), "question": Value("string")})
    row = {"image": {"bytes": b"no picture", "path": None}, "images": [{"bytes": buffer.getvalue(), "path": "a.png"}]}
    dataset = Dataset.from_list([{**row, "question": "q"}], features=features)
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "a.parquet")
    for path in ("saved", "a.parquet"):
        (read,) = rows_of(find_annotation_files([tmp_path / path]))
        assert read == {**row, "question": "q"}


def test_bad_lines_do_not_end_a_file(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.jsonl": b'{"n": 1}\n\n{\n[]\n\xff\n{"n": 2}'})
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n\n{\n[]\n\xff\n{"n": 2}')
    for given in (path, tmp_path / "a.jsonl"):
        (file,) = find_annotation_files([given])
        rows = list(file.rows())
        assert [place.rpartition(":")[2] for place, _ in rows] == ["1", "3", "4", "5", "6"]
        assert [isinstance(row, ValueError) for _, row in rows] == [False, True, True, True, False]
        assert all(str(row).startswith(f"{place}: ") for place, row in rows if isinstance(row, ValueError))


def test_a_damaged_archive_is_an_error_of_the_file(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.jsonl": b'{"n": "1234567890abcdefgh"}\n'}, 0)
    content = path.read_bytes().replace(b"1234567890", b"1234567891", 1)
    path.write_bytes(content)
    (file,) = find_annotation_files([path])
    with pytest.raises(ValueError, match=r"a.zip/a.jsonl: cannot be read: Bad CRC-32"):
        list(file.rows())


def test_digests_follow_the_content(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "saved")
    (tmp_path / "a.jsonl").write_text("{}\n")
    write_zip(tmp_path / "a.zip", {"a.jsonl": b"{}\n"})
    files = find_annotation_files([tmp_path / "saved", tmp_path / "a.jsonl", tmp_path / "a.zip"])
    first = [content_digest(file) for file in files]
    assert [content_digest(file) for file in files] == first
    dataset.select([1]).save_to_disk(tmp_path / "saved2")
    (tmp_path / "saved2" / "state.json").replace(tmp_path / "saved" / "state.json")
    (tmp_path / "a.jsonl").write_text("{} \n")
    write_zip(tmp_path / "a.zip", {"a.jsonl": b"{} \n"})
    assert all(content_digest(file) != before for file, before in zip(files, first, strict=True))
