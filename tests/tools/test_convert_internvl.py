"""The program: what it writes, what it refuses, and what is left when it is stopped."""

import json
import os
import signal
import time
from pathlib import Path

import fork_server
import pytest
import torch
from distributed_ranks import run_ranks
from original_internvl import SYSTEM_PROMPT, write_checkpoint, write_weights
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from tools import convert_internvl
from tools.convert_internvl import main
from tools.internvl_conversion.shards import parse_size


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A released folder, not to be changed, and its tensors."""
    folder = tmp_path_factory.mktemp("released") / "VisualPRM-8B"
    return folder, write_checkpoint(folder, architecture="InternVLRewardModel")


@pytest.fixture
def copy_of(released, tmp_path):
    """A copy of the released folder, with other weights where they are given."""
    folder = tmp_path / "source"
    folder.mkdir()
    for file in released[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def loaded(folder):
    return AutoModelForImageTextToText.from_pretrained(folder).state_dict()


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_what_it_writes(released, tmp_path, capsys):
    status, out, _ = run(capsys, released[0], tmp_path / "out", "--max-shard-size", "100KB")
    assert status == 0
    report = json.loads(out)
    assert (report["architecture"], report["text_model"]) == ("InternVLRewardModel", "llama")
    assert report["source_tensors"] == len(released[1])
    assert report["parameters"] == sum(tensor.numel() for tensor in released[1].values())
    assert report["system_prompt"] == SYSTEM_PROMPT
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not any(name.endswith(".py") for name in names)
    for path in (tmp_path / "out").glob("*.json"):
        assert "auto_map" not in path.read_text()
    shards = sorted(name for name in names if name.endswith(".safetensors"))
    assert len(shards) == report["files"] > 3
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    held = {}
    for shard in shards:
        with safe_open(tmp_path / "out" / shard, "pt") as opened:
            held |= dict.fromkeys(opened.keys(), shard)
        assert (tmp_path / "out" / shard).stat().st_size < 110_000
    assert index["weight_map"] == held
    assert len(held) == report["tensors"]
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.model_type, config.architectures) == ("internvl", ["InternVLForConditionalGeneration"])
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "out").tokenizer
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    end = GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    assert tokenizer.convert_ids_to_tokens(end) == "<|im_end|>"


@pytest.mark.parametrize("layout", ["one file", "pytorch shards", "one pytorch file"])
def test_layouts_of_the_weights(released, copy_of, tmp_path, capsys, layout):
    for file in copy_of.glob("model*"):
        file.unlink()
    if layout == "one file":
        save_file(released[1], copy_of / "model.safetensors")
    elif layout == "pytorch shards":
        write_weights(copy_of, released[1], suffix="bin")
    else:
        torch.save(released[1], copy_of / "pytorch_model.bin")
    assert run(capsys, copy_of, tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert run(capsys, released[0], tmp_path / "expected")[0] == 0
    expected = loaded(tmp_path / "expected")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded(tmp_path / "out").items())


def test_dtype(released, tmp_path, capsys):
    assert run(capsys, released[0], tmp_path / "out", "--dtype", "bfloat16")[0] == 0
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert model.dtype is torch.bfloat16
    name = "language_model.model.norm.weight"
    assert torch.equal(model.state_dict()["model.language_model.norm.weight"], released[1][name].bfloat16())


def test_system_prompt_of_the_command_line(copy_of, tmp_path, capsys):
    (copy_of / "conversation.py").unlink()
    status, _, err = run(capsys, copy_of, tmp_path / "out")
    assert (status, (tmp_path / "out").exists()) == (2, False)
    assert "conversation.py" in err
    assert "--system-prompt" in err
    assert run(capsys, copy_of, tmp_path / "out", "--system-prompt", "Check it.")[0] == 0
    protocol = json.loads((tmp_path / "out" / "process_reward_model.json").read_text())
    assert protocol["system_prompt"] == "Check it."


def test_the_system_message_of_the_configuration(copy_of, tmp_path, capsys):
    """The released classes use it in place of the one in conversation.py; what the user gives comes before both."""
    config = json.loads((copy_of / "config.json").read_text())
    (copy_of / "config.json").write_text(json.dumps(config | {"system_message": "From the configuration."}))
    for number, (options, expected) in enumerate(
        [([], "From the configuration."), (["--system-prompt", "Check it."], "Check it.")]
    ):
        output = tmp_path / str(number)
        assert run(capsys, copy_of, output, *options)[0] == 0
        assert json.loads((output / "process_reward_model.json").read_text())["system_prompt"] == expected
        (text,) = AutoProcessor.from_pretrained(output).apply_chat_template(
            [[{"role": "user", "content": [{"type": "text", "text": "a"}]}]], tokenize=False
        )
        assert expected in text


def test_fewer_tiles(released, tmp_path, capsys):
    assert run(capsys, released[0], tmp_path / "out", "--max-tiles", "6")[0] == 0
    assert AutoProcessor.from_pretrained(tmp_path / "out").image_processor.max_patches == 6
    with pytest.raises(SystemExit) as refused:
        run(capsys, released[0], tmp_path / "other", "--max-tiles", "0")
    assert refused.value.code == 2


def test_an_output_that_exists(released, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(capsys, released[0], output)[0] == 0
    (output / "old.txt").write_text("of the old one")
    status, _, err = run(capsys, released[0], output)
    assert (status, (output / "old.txt").exists()) == (2, True)
    assert "--overwrite" in err
    assert run(capsys, released[0], output, "--overwrite")[0] == 0
    assert not (output / "old.txt").exists()
    for wrong in (released[0], released[0].parent):
        status, _, err = run(capsys, released[0], wrong, "--overwrite")
        assert (status, "must lie outside" in err) == (2, True)
    assert (released[0] / "config.json").is_file()


@pytest.mark.parametrize("names", [["thesis.txt"], ["config.json", "thesis.txt"], ["process_reward_model.json"]])
def test_what_is_no_model_is_never_replaced(released, tmp_path, capsys, names):
    output = tmp_path / "out"
    output.mkdir()
    for name in names:
        (output / name).write_text("{}")
    status, _, err = run(capsys, released[0], output, "--overwrite")
    assert status == 2
    assert "something else than a converted model" in err
    assert sorted(path.name for path in output.iterdir()) == sorted(names)
    (tmp_path / "file").write_text("kept")
    assert run(capsys, released[0], tmp_path / "file", "--overwrite")[0] == 2
    assert (tmp_path / "file").read_text() == "kept"


def test_weights_that_do_not_fit_leave_nothing(released, copy_of, tmp_path, capsys):
    write_weights(copy_of, {**released[1], "v_head.weight": torch.zeros(1, 48)})
    status, _, err = run(capsys, copy_of, tmp_path / "out")
    assert status == 2
    assert "unknown tensors: v_head.weight" in err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_broken_weight_files(copy_of, tmp_path, capsys):
    index = copy_of / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["more.weight"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(content))
    assert "do not agree on more.weight" in run(capsys, copy_of, tmp_path / "out")[2]
    (copy_of / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in run(capsys, copy_of, tmp_path / "out")[2]
    for file in copy_of.glob("model*"):
        file.unlink()
    assert "no weights" in run(capsys, copy_of, tmp_path / "out")[2]
    assert "no such folder" in run(capsys, tmp_path / "nowhere", tmp_path / "out")[2]


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", None, b""]
)
def test_downloads_that_are_not_whole_are_named(released, copy_of, tmp_path, capsys, suffix, content):
    """A pointer of Git LFS, a file cut short, an empty one."""
    if suffix == "bin":
        for file in copy_of.glob("model*"):
            file.unlink()
        torch.save(released[1], copy_of / "pytorch_model.bin")
    file = copy_of / ("pytorch_model.bin" if suffix == "bin" else "model-00002-of-00003.safetensors")
    file.write_bytes(file.read_bytes()[:-1000] if content is None else content)
    status, _, err = run(capsys, copy_of, tmp_path / "out")
    assert status == 2
    assert f"error: {file}: cannot be read as weights" in err
    assert not (tmp_path / "out").exists()


def test_pickled_objects_are_not_run(released, copy_of, tmp_path, capsys):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    for file in copy_of.glob("model*"):
        file.unlink()
    torch.save({**released[1], "x": Malicious()}, copy_of / "pytorch_model.bin")
    status, _, err = run(capsys, copy_of, tmp_path / "out")
    assert (status, "pytorch_model.bin: cannot be read as weights" in err, "weights_only" in err) == (2, True, True)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


def convert_and_wait(source, target, written):
    """Stands still when all weights are on the disk; a process of its own."""
    write_shards = convert_internvl.write_shards

    def write_and_wait(*arguments):
        files = write_shards(*arguments)
        written.touch()
        time.sleep(600)
        return files

    convert_internvl.write_shards = write_and_wait
    convert_internvl.main([str(source), str(target)])


def test_a_killed_conversion_leaves_nothing_that_loads(released, tmp_path, tmp_path_factory, capsys):
    """Killed at the latest moment that matters: all weights are on the disk."""
    elsewhere = tmp_path_factory.mktemp("killed")
    arguments = [released[0], tmp_path / "out", elsewhere / "written"]
    process = fork_server.start(f"{__file__}:convert_and_wait", arguments, elsewhere / "output.txt")
    until = time.monotonic() + 300
    while not (elsewhere / "written").exists():
        assert process.exitcode is None, (elsewhere / "output.txt").read_text()
        assert time.monotonic() < until
        time.sleep(0.02)
    fork_server.kill(process)
    assert process.exitcode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("out.partial-")
    assert list(left.glob("*.safetensors"))
    with pytest.raises((OSError, ValueError)):
        AutoModelForImageTextToText.from_pretrained(left)
    status, _, err = run(capsys, released[0], tmp_path / "out")
    assert status == 0
    assert left.name in err
    assert len(loaded(tmp_path / "out")) > 60


def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def convert_and_measure(source, target, report):
    """Says by how many megabytes the process grows while it writes shards; a process of its own."""
    write_shards = convert_internvl.write_shards

    def measured(*arguments):
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present
        before = megabytes("VmRSS")
        files = write_shards(*arguments)
        report.write_text(str(megabytes("VmHWM") - before))
        return files

    convert_internvl.write_shards = measured
    raise SystemExit(convert_internvl.main([str(source), str(target), "--max-shard-size", "10MB"]))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as Linux shows it")
def test_memory_holds_a_shard_and_no_more(tmp_path):
    """108 MB in one file, written in shards of 10 MB."""
    llm = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 14, "num_attention_heads": 8}
    write_checkpoint(tmp_path / "source", llm=llm, torch_dtype="bfloat16", dtype=torch.bfloat16, shards=1)
    weights = (tmp_path / "source" / "model-00001-of-00001.safetensors").stat().st_size
    assert weights > 1e8
    arguments = [tmp_path / "source", tmp_path / "out", tmp_path / "grown"]
    run_ranks(f"{__file__}:convert_and_measure", arguments, ranks=1, folder=tmp_path)
    grown = float((tmp_path / "grown").read_text())
    assert grown < 40
    assert sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")) > 1e8


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("100KB", 100_000)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["5", "GB", "-1GB", "0MB", "5GiB", ""])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="a size must be"):
        parse_size(text)
