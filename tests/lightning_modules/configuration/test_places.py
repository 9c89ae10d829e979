import pytest

from lightning_modules.configuration.places import Places

BASE = """\
model:
  class_path: Model
  init_args:
    name_or_path: ${oc.env:BASE}/model
    backbone:
      lora: {rank: 4}
trainer:
  callbacks:
    - class_path: Saver
      init_args:
        folder: out
    - class_path: Other
  devices: 2
data:
  init_args:
    files:
      - /data/a.jsonl
      - /data/b.jsonl
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "more.yaml").write_text("# of mine\ntrainer: {devices: 4}\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    return tmp_path


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("model.init_args.backbone.lora.rank", "base.yaml:6: model.init_args.backbone.lora.rank: 4"),
        ("model.backbone.lora.rank", "base.yaml:6: model.init_args.backbone.lora.rank: 4"),
        ("trainer.folder", "base.yaml:11: trainer.callbacks[0].init_args.folder: out"),
        ("trainer.devices", "more.yaml:2: trainer.devices: 4"),
        ("model", "base.yaml:1: model"),
        ("data.files", "base.yaml:16: data.init_args.files"),
        ("data.nothing", None),
        ("", None),
    ],
)
def test_lines(key, line, files):
    places = Places(["fit", "--config", f"{files}/base.yaml", f"--config={files}/more.yaml"])
    assert places.of(key) is None if line is None else str(places.of(key)) == f"{files}/{line}"


def test_the_last_one_counts(files):
    words = ["fit", "--trainer.devices=1", "-c", f"{files}/base.yaml"]
    assert str(Places(words).of("trainer.devices")) == f"{files}/base.yaml:13: trainer.devices: 2"
    words += ["--trainer.devices", "-1"]
    assert str(Places(words).of("trainer.devices")) == "command line: --trainer.devices=-1"


def test_values_that_a_message_cites(files):
    places = Places(["--config", f"{files}/base.yaml"])
    config = {
        "model": {"init_args": {"name_or_path": "/base/model"}},
        "data": {"init_args": {"files": ["/data/a.jsonl", "/data/b.jsonl"]}},
    }
    found = places.mentioned("no such folder: /base/model", config)
    assert str(found) == f"{files}/base.yaml:4: model.init_args.name_or_path: ${{oc.env:BASE}}/model"
    found = places.mentioned("/data/b.jsonl:3: no row", config)
    assert str(found) == f"{files}/base.yaml:18: data.init_args.files[1]: /data/b.jsonl"
    assert str(places.mentioned("devices must be 1", config)).endswith("base.yaml:13: trainer.devices: 2")
    assert str(places.mentioned("lora.rank: too many", config)).endswith("lora.rank: 4")
    assert places.mentioned("too many devices, or files, in this folder", config) is None, "common words"


def test_files_that_cannot_be_read(files):
    places = Places(["--config", f"{files}/broken.yaml", "--config", f"{files}/none.yaml", "--config"])
    assert places.of("a") is None
