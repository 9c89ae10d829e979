"""`visualprm-export` on runs of `visualprm fit`, and what its folders say."""

import os
import re
import sys

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from cli_runs import SMALLER, visualprm

from lightning_modules.process_reward import ProcessRewardModel
from tools.export import main


def run_export(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["visualprm-export", *map(str, arguments)])
        if status := main():
            raise SystemExit(status)


@pytest.fixture(scope="module")
def run(quickstart_run, tmp_path_factory):
    """Folder of a short run with its config.yaml, its checkpoint, and the model that it ended with."""
    folder = tmp_path_factory.mktemp("run")
    cli = visualprm(
        quickstart_run,
        "fit",
        "--config=experiments/quickstart/process_reward_model.yaml",
        *SMALLER["process_reward_model"].split(),
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=3",
        "--data.benchmark_names=[MathVision]",
        "--model.system_prompt=You check .",
        "--model.loss.class_weights=[1,9]",
        f"--trainer.default_root_dir={folder}",
        f"--trainer.logger.save_dir={folder}",
        f"--trainer.callbacks.folder={folder / 'model'}",
    )
    (checkpoint,) = folder.rglob("*.ckpt")
    (config,) = folder.rglob("config.yaml")
    return folder, checkpoint, config, cli


def weights_of(folder):
    return ProcessRewardModel.from_pretrained(folder).state_dict()


def test_a_file_and_its_configuration(run, tmp_path, capsys):
    folder, checkpoint, config, _ = run
    run_export(checkpoint, "--config", config, "--output", tmp_path / "export", "--max-shard-size", "100KB")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert len(list((tmp_path / "export").glob("model-*.safetensors"))) > 1
    expected, found = weights_of(folder / "model"), weights_of(tmp_path / "export")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    for name in ("process_reward_model.json", "chat_template.jinja", "config.json"):
        assert (tmp_path / "export" / name).read_bytes() == (folder / "model" / name).read_bytes()


def test_a_sharded_folder_is_the_same_command(run, tmp_path):
    folder, checkpoint, _, _ = run
    content = torch.load(checkpoint, weights_only=True)
    weights = content.pop("state_dict")
    dcp.save({"state_dict": weights}, checkpoint_id=tmp_path / "sharded.ckpt", no_dist=True)
    torch.save(content, tmp_path / "sharded.ckpt" / "meta.pt")
    run_export(tmp_path / "sharded.ckpt", "--output", tmp_path / "export")
    expected, found = weights_of(folder / "model"), weights_of(tmp_path / "export")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_card(run, tmp_path):
    folder, checkpoint, config, cli = run
    run_export(checkpoint, "--config", config, "--output", tmp_path / "export")
    for card in (folder / "model" / "README.md", tmp_path / "export" / "README.md"):
        text = card.read_text()
        head = yaml.safe_load(text.split("---")[1])
        assert head["license"] == "other"
        assert head["library_name"] == "transformers"
        assert "base_model" not in head  # a folder has no name on the hub
        assert "Fine-tuned from base." in text
        assert str(folder) not in text
        assert "class_weights: [1.0, 9.0]" in text
        rows = sum(cli.datamodule.training_sources.values())
        assert rows > 0
        assert re.search(rf"^\| All +\| +{rows:,} \|$", text, re.MULTILINE)
        for name in ("best_of_n/overall", "process_bench/macro_f1", "validation/auroc"):
            value = f"{cli.trainer.callback_metrics[name].item():.4f}"
            shown = name.replace("_", r"\_")
            assert re.search(rf"^\| {re.escape(shown)} +\| +{value} \|$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.ckpt", "--output", "new"], "missing.ckpt: there is no such checkpoint file or folder"),
        (["{checkpoint}", "--output", "taken"], "taken is there already; give another folder or --overwrite"),
        (["{checkpoint}", "--output", "taken", "--overwrite"], "taken holds no exported model and is not replaced"),
        (
            ["{checkpoint}", "--output", "new", "--model-name-or-path", "{random}"],
            r"does not fit ProcessRewardModel on '.*', or|has \d+ weights of another shape",
        ),
    ],
)
def test_mistakes(run, tiny_checkpoint, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("stays")
    filled = [argument.format(checkpoint=run[1], random=tiny_checkpoint) for argument in arguments]
    with pytest.raises(SystemExit) as caught:
        run_export(*filled)
    assert caught.value.code == 1
    assert re.search(message, capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
    assert (tmp_path / "taken" / "mine.txt").read_text() == "stays"


def test_a_shard_that_is_cut_short_is_named(run, tmp_path, capsys):
    content = torch.load(run[1], weights_only=True)
    weights = content.pop("state_dict")
    dcp.save({"state_dict": weights}, checkpoint_id=tmp_path / "cut.ckpt", no_dist=True)
    torch.save(content, tmp_path / "cut.ckpt" / "meta.pt")
    (shard,) = (tmp_path / "cut.ckpt").glob("*.distcp")
    size = shard.stat().st_size
    os.truncate(shard, size // 2)
    with pytest.raises(SystemExit):
        run_export(tmp_path / "cut.ckpt", "--output", tmp_path / "export")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{shard}: is cut short, {size // 2} of {size} bytes" in line
    shard.unlink()
    with pytest.raises(SystemExit):
        run_export(tmp_path / "cut.ckpt", "--output", tmp_path / "export")
    assert f"{shard}: is missing" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


def test_an_exported_folder_may_be_replaced(run, tmp_path):
    _, checkpoint, config, _ = run
    run_export(checkpoint, "--config", config, "--output", tmp_path / "export")
    (tmp_path / "export" / "stale.txt").write_text("old")
    run_export(checkpoint, "--config", config, "--output", tmp_path / "export", "--overwrite")
    assert not (tmp_path / "export" / "stale.txt").exists()
