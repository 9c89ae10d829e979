from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from datamodules.storage.checkpoint_names import is_path, loading, require_checkpoint, require_model


@pytest.fixture
def no_hub(monkeypatch):
    """Whoever asks the hub fails this test."""

    def asked(*arguments, **options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(HfApi, "model_info", asked)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OpenGVLab/InternVL2_5-8B", False),
        ("gpt2", False),
        ("checkpoints/InternVL2_5-8B", True),
        ("runs/a/b", True),
        ("./model", True),
        ("../model", True),
        ("/data/model", True),
        ("~/model", True),
        ("model/", True),
        ("a b", True),
        ("here/model", True),
    ],
)
def test_what_can_only_be_a_path(name, expected, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_path(name) is expected
    if expected:
        with pytest.raises(FileNotFoundError, match="there is no such folder"):
            require_model(name)


def test_a_path_asks_no_hub(no_hub, tmp_path):
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=rf"no such folder; there are {tmp_path}/near; a checkpoint must be"):
        require_model(tmp_path / "none")
    require_model(tmp_path / "near")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        require_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="is a file"):
        require_model(tmp_path / "near" / "config.json")


def test_the_hub_is_asked_once(monkeypatch):
    asked = []

    def unreachable(self, name, timeout):
        asked.append((name, timeout))
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing: no folder here, and the hub cannot be asked"):
        require_model("nobody/nothing")
    assert asked == [("nobody/nothing", 10.0)]


def test_checkpoints_of_runs(tmp_path):
    torch.save({"a": 1}, tmp_path / "whole.ckpt")
    require_checkpoint(tmp_path / "whole.ckpt")
    require_checkpoint(tmp_path)
    content = (tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"cut\.ckpt: is no checkpoint .* cut short \({len(content) // 2} bytes\)"):
        require_checkpoint(tmp_path / "cut.ckpt")
    with pytest.raises(FileNotFoundError, match="there is no such checkpoint"):
        require_checkpoint(tmp_path / "none.ckpt")


def test_errors_of_loading_name_the_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=rf"^{tmp_path}: the processor cannot be loaded: no tokenizer$"):
        with loading(tmp_path, "processor"):
            raise EOFError("no tokenizer")
    Path(tmp_path / "model-00002.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/model-00002\.safetensors: damaged or cut short \(1 bytes\)"):
        with loading(tmp_path, "weights"):
            raise OSError("something about weights")
