import json

import pytest
from jsonargparse import ArgumentParser
from released_data import AI2D, GEOMETRY, write_conversation_release

from datamodules.supervision.sources import ProcessSource, process_sources, read_meta
from datamodules.visual_prm_400k import VisualPRM400KDataModule


def test_paths_and_sources():
    given = [ProcessSource("b.jsonl", weight=2.0), ProcessSource(["c", "d"], "own")]
    found = process_sources(["a.jsonl"], given, "root")
    assert found == [
        ProcessSource(["a.jsonl"], "root"),
        ProcessSource("b.jsonl", "root", weight=2.0),
        ProcessSource(["c", "d"], "own"),
    ]
    assert [source.paths for source in found] == [["a.jsonl"], ["b.jsonl"], ["c", "d"]]
    assert process_sources("a.jsonl", {"x": {"annotations": "b", "limit": 3}}, None) == [
        ProcessSource(["a.jsonl"]),
        ProcessSource("b", limit=3),
    ]
    assert process_sources(None, None, "root") == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0.0}, "weight must be above 0, got 0.0"),
        ({"weight": float("nan")}, "weight must be above 0, got nan"),
        ({"max_tiles": 0}, "max_tiles must be at least 1, got 0"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ProcessSource("a.jsonl", **settings)


def test_the_meta_file_of_a_release(tmp_path):
    release = write_conversation_release(tmp_path)
    expected = [
        ProcessSource(
            f"zip://annotations/{AI2D}_prm.jsonl::{release}/annotations.zip",
            f"zip://images/ai2d::{release}/images.zip",
            weight=2.0,
            max_tiles=6,
            rows=2,
        ),
        ProcessSource(
            f"zip://annotations/{GEOMETRY}_prm.jsonl::{release}/annotations.zip",
            f"zip://images/Geometry3K::{release}/images.zip",
            max_tiles=12,
            rows=1,
        ),
    ]
    assert read_meta(release / "meta.json") == expected
    for given in (release, release / "meta.json"):
        assert process_sources([given], None, None) == expected
    # Unpacked, under the release's own name or another one.
    (release / "annotations").mkdir()
    (release / "annotations" / f"{AI2D}_prm.jsonl").write_text("")
    (release / "images" / "ai2d").mkdir(parents=True)
    for folder in (release, tmp_path / "other"):
        if not folder.exists():
            release.rename(folder)
        first = read_meta(folder / "meta.json")[0]
        assert first.annotations == str(folder / "annotations" / f"{AI2D}_prm.jsonl")
        assert first.image_root == str(folder / "images" / "ai2d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[]", "expected an object of objects"),
        ("{", "not valid JSON"),
        ({"a": {"root": "x"}}, r"meta.json: 'a': field 'annotation' is missing"),
        ({"a": {"annotation": "none.jsonl"}}, r"meta.json: 'a': there is no annotation file 'none.jsonl'"),
        ({"a": {"annotation": "b.jsonl", "root": "none"}}, r"meta.json: 'a': there is no image folder 'none'"),
        ({"a": {"annotation": "b.jsonl", "repeat_time": "1"}}, r"'a': field 'repeat_time' must be a finite number"),
        (
            {"a": {"annotation": "b.jsonl", "max_dynamic_patch": 0}},
            r"'a': field 'max_dynamic_patch' must be an integer",
        ),
    ],
)
def test_bad_meta_files(tmp_path, change, message):
    (tmp_path / "b.jsonl").write_text("")
    (tmp_path / "meta.json").write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(ValueError, match=message):
        read_meta(tmp_path / "meta.json")


@pytest.mark.parametrize(
    "sources",
    [
        [{"annotations": "a.jsonl", "weight": 0.5, "max_tiles": 6}, {"annotations": ["b", "c"], "limit": 10}],
        {"a": {"annotations": "a.jsonl", "weight": 0.5, "max_tiles": 6}, "b": {"annotations": ["b", "c"], "limit": 10}},
    ],
)
def test_the_yaml_of_a_configuration(sources):
    parser = ArgumentParser(parser_mode="omegaconf", exit_on_error=False)
    parser.add_subclass_arguments(VisualPRM400KDataModule, "data")
    configuration = {
        "class_path": "datamodules.visual_prm_400k.VisualPRM400KDataModule",
        "init_args": {"sources": sources, "image_root": "images.zip"},
    }
    parsed = parser.parse_object({"data": configuration})
    module = parser.instantiate_classes(parsed).data
    assert module._sources("train") == [
        ProcessSource("a.jsonl", "images.zip", weight=0.5, max_tiles=6),
        ProcessSource(["b", "c"], "images.zip", limit=10),
    ]
    assert module._sources("process") == []
