"""The data module on VisualPRM400K in the layouts in which it is released, and as Hugging Face datasets."""

import zipfile
from collections import Counter

import pytest
from datasets import Dataset, Features, Image, List, Value
from released_data import (
    AI2D,
    GEOMETRY,
    NLVR2,
    PICTURES,
    TEXT,
    conversation_row,
    jsonl,
    raw_row,
    raw_rows,
    split_file,
    write_conversation_release,
    write_raw_release,
)

from datamodules.supervision.sources import ProcessSource
from datamodules.visual_prm_400k import VisualPRM400KDataModule


@pytest.fixture
def make(tmp_path, tiny_checkpoint):
    def make_module(**options):
        values = {
            "cache_dir": str(tmp_path / "cache"),
            "model_name_or_path": str(tiny_checkpoint),
            "batch_size": 1,
            "eval_batch_size": 1,
        }
        return VisualPRM400KDataModule(**values | options)

    return make_module


def batches_by_sample(module):
    module.prepare_data()
    module.setup("fit")
    return {name: batch for batch in module.train_dataloader() for name in batch.sample_ids}


def unpack(release):
    for name in ("annotations", "images"):
        with zipfile.ZipFile(release / f"{name}.zip") as archive:
            archive.extractall(release)
        (release / f"{name}.zip").unlink()


@pytest.mark.parametrize("layout", ["archives", "parts", "unpacked", "annotations unpacked"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_raw_rows(make, tmp_path, layout, num_workers):
    release = write_raw_release(tmp_path)
    if layout == "parts":
        split_file(release / "images.zip", 2)
    elif layout == "unpacked":
        unpack(release)
    elif layout == "annotations unpacked":
        (release / "annotations").mkdir()
        for source, rows in raw_rows().items():
            (release / "annotations" / f"{source}.jsonl").write_bytes(jsonl(rows))
    batches = batches_by_sample(make(train_annotations=str(release), num_workers=num_workers))
    assert Counter(batch.sources[0] for batch in batches.values()) == {AI2D: 3, GEOMETRY: 1, NLVR2: 1, TEXT: 1}
    scores = {batch.sources[0]: batch.mc[0].tolist() for name, batch in batches.items() if name.endswith(":1")}
    assert scores == {AI2D: [0.5, 0.0], GEOMETRY: [0.125, 0.9375], NLVR2: [0.75, 0.25], TEXT: [1.0, 0.0]}
    pictures = {batch.sources[0]: len(batch.inputs.get("pixel_values", [])) for batch in batches.values()}
    assert pictures == {AI2D: 1, GEOMETRY: 1, NLVR2: 2, TEXT: 0}
    # The right pictures: each is of one colour.
    blue = next(batch for batch in batches.values() if batch.sources == [GEOMETRY]).inputs["pixel_values"][0]
    assert blue.mean(dim=(1, 2)).argmax() == 2


def test_conversation_rows(make, tmp_path):
    """With the meta file: roots, weights and numbers of tiles of each source."""
    release = write_conversation_release(tmp_path)
    module = make(train_annotations=str(release))
    module.setup("fit")
    seen = Counter(name.rpartition("/")[2] for batch in module.train_dataloader() for name in batch.sample_ids)
    assert seen == {f"{AI2D}_prm.jsonl:1": 2, f"{AI2D}_prm.jsonl:2": 2, f"{GEOMETRY}_prm.jsonl:1": 1}
    batches = batches_by_sample(module)
    tiles = {batch.sources[0]: len(batch.inputs["pixel_values"]) for batch in batches.values()}
    assert set(tiles) == {f"{AI2D}_prm", f"{GEOMETRY}_prm"}
    assert tiles[f"{AI2D}_prm"] <= 6 + 1
    assert tiles[f"{GEOMETRY}_prm"] <= 12 + 1
    assert min(tiles.values()) > 1
    by_row = {
        name.rpartition("_prm.jsonl:")[2] + batch.sources[0]: batch.mc[0].tolist() for name, batch in batches.items()
    }
    assert by_row == {f"1{AI2D}_prm": [1.0, 0.0], f"2{AI2D}_prm": [1.0], f"1{GEOMETRY}_prm": [1.0, 1.0, 0.0]}


def test_a_wrong_count_of_a_meta_file_is_a_warning(make, tmp_path, caplog):
    release = write_conversation_release(tmp_path)
    meta = release / "meta.json"
    meta.write_text(meta.read_text().replace('"length": 2', '"length": 12000'))
    make(train_annotations=str(release)).setup("fit")
    assert f"{AI2D}_prm.jsonl::{release}/annotations.zip: 2 rows, but 12000 were announced" in caplog.text


def hugging_face_rows():
    rows = raw_rows()
    names = {"VisualPRM400K-v1.1-Raw/ai2d/images/1.png": "ai2d/images/1.png"}
    names["VisualPRM400K-v1.1-Raw/ai2d/images/2.png"] = "ai2d/images/2.png"
    for row in rows[AI2D]:
        yield {**row, "image": {"bytes": PICTURES[names[row["image"]]], "path": "1.png"}}


RAW_FEATURES = {
    "question": Value("string"),
    "steps_with_score": List(
        {
            "step": Value("string"),
            "score": Value("float64"),
            "num_mc_correct": Value("int64"),
            "num_mc_total": Value("int64"),
        }
    ),
}


@pytest.mark.parametrize("kind", ["saved", "parquet", "bytes"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_embedded_pictures(make, tmp_path, kind, num_workers):
    features = Features({**RAW_FEATURES, "image": Image() if kind != "bytes" else Value("binary")})
    rows = [{name: row[name] for name in features} for row in hugging_face_rows()]
    if kind == "bytes":
        rows = [{**row, "image": row["image"]["bytes"]} for row in rows]
    dataset = Dataset.from_list(rows, features=features)
    path = tmp_path / "ai2d"
    if kind == "saved":
        dataset.save_to_disk(path)
    else:
        (path / "data").mkdir(parents=True)
        for shard in range(2):
            part = dataset.shard(2, shard, contiguous=True)
            part.to_parquet(path / "data" / f"train-{shard:05d}-of-00002.parquet")
    batches = batches_by_sample(make(train_annotations=str(path), num_workers=num_workers))
    assert {batch.sources[0] for batch in batches.values()} == {"ai2d"}
    assert sorted(batch.mc[0].tolist() for batch in batches.values()) == [[0.125], [0.5, 0.0], [1.0, 1.0, 1.0]]
    channel = {
        tuple(b.mc[0].tolist()): int(b.inputs["pixel_values"][0].mean(dim=(1, 2)).argmax()) for b in batches.values()
    }
    assert channel == {(0.5, 0.0): 0, (1.0, 1.0, 1.0): 0, (0.125,): 1}


def test_several_embedded_pictures_and_conversations(make, tmp_path):
    row = conversation_row(0, None, "<image>\n<image>\nWhich?", "+-")
    features = Features(
        {"images": List(Image()), "conversations": List({"from": Value("string"), "value": Value("string")})}
    )
    pictures = [{"bytes": data, "path": None} for data in list(PICTURES.values())[:2]]
    rows = [{"images": pictures, "conversations": row["conversations"]}]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "pairs.parquet")
    (batch,) = batches_by_sample(make(train_annotations=str(tmp_path / "pairs.parquet"))).values()
    assert len(batch.inputs["pixel_values"]) == 2
    assert batch.mc.tolist() == [[1.0, 0.0]]
    assert batch.sources == ["pairs"]


def test_the_split_keeps_a_question_about_a_picture_together(make, tmp_path):
    """Two solutions about picture 1 stay together; the same text about picture 2 is another question."""
    release = write_raw_release(tmp_path)
    sides = set()
    for seed in range(12):
        module = make(train_annotations=str(release), validation_fraction=0.4, seed=seed)
        module.setup("fit")
        side = {row["sample_id"].rpartition("/")[2]: "train" for row in module.supervision.tables["train"]}
        side |= {row["sample_id"].rpartition("/")[2]: "validation" for row in module.supervision.tables["process"]}
        assert len(side) == 6
        one, other, second = (side[f"{AI2D}.jsonl:{line}"] for line in (1, 2, 3))
        assert one == other
        sides.add((one, second))
    assert sides >= {("train", "validation"), ("validation", "train")}


@pytest.mark.parametrize("move", [False, True])
def test_the_split_does_not_depend_on_where_the_data_lie(make, tmp_path, move):
    """Nor on whether the pictures are unpacked."""
    chosen = []
    for name in ("a", "b/c"):
        release = write_raw_release(tmp_path / name)
        if move and name != "a":
            unpack(release)
        module = make(train_annotations=str(release), validation_fraction=0.5, seed=1)
        module.setup("validate")
        chosen.append(sorted(row["sample_id"].rpartition("/")[2] for row in module.supervision.tables["process"]))
    assert chosen[0] == chosen[1]


def test_one_question_in_two_sources_with_different_roots(make, tmp_path):
    """The same picture by two ways is the same question; pictures of one name in two folders are not."""
    release = write_raw_release(tmp_path)
    row = raw_row("<image>\nWhat is shown?", "1.png", [0.25])
    (release / "more.jsonl").write_bytes(jsonl([row]))
    (release / "other").mkdir()
    (release / "other" / "1.png").write_bytes(PICTURES["ai2d/images/2.png"])
    (release / "other" / "other.jsonl").write_bytes(jsonl([row]))
    sources = {
        "released": ProcessSource(str(release / "annotations.zip")),
        "more": ProcessSource(str(release / "more.jsonl"), f"zip://images/ai2d/images::{release}/images.zip"),
        "other": ProcessSource(str(release / "other" / "other.jsonl")),
    }
    module = make(sources=sources)
    module.setup("fit")
    key = {row["sample_id"].rpartition("/")[2]: row["question_key"] for row in module.supervision.tables["train"]}
    assert key[f"{AI2D}.jsonl:1"] == key[f"{AI2D}.jsonl:2"] == key["more.jsonl:1"]
    assert len({key[f"{AI2D}.jsonl:1"], key[f"{AI2D}.jsonl:3"], key["other.jsonl:1"]}) == 3


def test_settings_of_sources(make, tmp_path):
    """A folder, and one of its files again with settings of its own."""
    release = write_raw_release(tmp_path)
    sources = [
        {"annotations": str(release), "limit": 2},
        {"annotations": f"zip://annotations/{GEOMETRY}.jsonl::{release}/annotations.zip", "weight": 3, "max_tiles": 4},
    ]
    module = make(sources=sources)
    module.setup("fit")
    batches = [batch for batch in module.train_dataloader() for _ in batch.sample_ids]
    assert Counter(batch.sources[0] for batch in batches) == {AI2D: 2, GEOMETRY: 3, NLVR2: 1, TEXT: 1}
    tiles = {batch.sources[0]: len(batch.inputs.get("pixel_values", [])) for batch in batches}
    # 40 : 24 is nearest to 2 : 1 of what four tiles allow.
    assert tiles == {AI2D: 1, GEOMETRY: 2 + 1, NLVR2: 2, TEXT: 0}


def test_bad_rows_of_every_kind_are_skipped_and_counted(make, tmp_path, caplog):
    release = write_raw_release(tmp_path)
    bad = [
        raw_row("<image>\nWhere?", "VisualPRM400K-v1.1-Raw/ai2d/none.png", [0.5]),
        {**raw_row("Why?", None, [0.5]), "steps_with_score": []},
    ]
    (release / "annotations").mkdir()
    (release / "annotations" / "good.jsonl").write_bytes(jsonl([raw_row("Why?", None, [0.5])]))
    content = b"{\n" + jsonl(bad)
    (release / "annotations" / "bad.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad.jsonl:1: not valid JSON.*and 2 more bad rows of 4"):
        make(train_annotations=str(release), on_bad_row="error").setup("fit")
    module = make(train_annotations=str(release))
    module.setup("fit")
    assert [row["source"] for row in module.supervision.tables["train"]] == ["good"]
    assert "3 of 4 rows are left out (bad: 3)" in caplog.text


def test_pictures_that_are_repaired_are_taken_in(make, tmp_path):
    """A table that was built while pictures were missing is not kept when they are there."""
    release = write_raw_release(tmp_path)
    archive = release / "images.zip"
    archive.rename(tmp_path / "images.zip")
    with pytest.raises(ValueError, match=r"1.png' cannot be opened as an image.*and 4 more bad rows of 6"):
        make(train_annotations=str(release), on_bad_row="error").setup("fit")
    module = make(train_annotations=str(release))
    module.setup("fit")
    assert len(module.supervision.tables["train"]) == 1
    # In parts: unpacked in another spelling, one picture broken at first.
    with zipfile.ZipFile(tmp_path / "images.zip") as images:
        images.extractall(release)
    broken = release / "images" / "ai2d" / "images" / "2.png"
    content = broken.read_bytes()
    broken.write_bytes(b"broken")
    module = make(train_annotations=str(release), on_bad_row="skip")
    module.setup("fit")
    assert len(module.supervision.tables["train"]) == 5
    broken.write_bytes(content)
    module = make(train_annotations=str(release))
    module.setup("fit")
    assert len(module.supervision.tables["train"]) == 6


def test_tiles_of_a_processor_without_them(make, tmp_path, monkeypatch):
    release = write_raw_release(tmp_path)
    module = make(sources=[ProcessSource(str(release), max_tiles=6)])
    module.setup("fit")
    monkeypatch.setattr(type(module.model_facts.encoder.processor.image_processor), "valid_kwargs", None)
    with pytest.raises(ValueError, match=r"max_tiles=6: the image processor .* does not cut pictures into tiles"):
        module.train_dataloader()
