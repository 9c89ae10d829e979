"""Backbone options through the `visualprm` command: what is trained, what a checkpoint holds, and that it loads."""

import json
import socket

import pytest
import torch
from cli_runs import visualprm
from tiny_families import write_family
from torch.distributed import DistNetworkError

from lightning_modules.model.lora import LoraOptions
from lightning_modules.policy import Policy
from lightning_modules.process_reward import ProcessRewardModel


@pytest.fixture
def run(tmp_path, raw_row, family_checkpoint):
    """Runs `visualprm fit` on eight questions without images; gives the CLI and the last checkpoint's path."""
    rows = [json.dumps(raw_row(image=None, id=f"q{index}")) + "\n" for index in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    (tmp_path / "run.yaml").write_text(
        f"""
        model:
          class_path: lightning_modules.process_reward.ProcessRewardModel
          init_args:
            model_name_or_path: {family_checkpoint("internvl_qwen2")}
            learning_rate: 1.0e-2
        data:
          class_path: datamodules.visual_prm_400k.VisualPRM400KDataModule
          init_args:
            train_annotations: [{tmp_path}/rows.jsonl]
            validation_annotations: [{tmp_path}/rows.jsonl]
            batch_size: 4
            cache_dir: {tmp_path}/cache
        trainer:
          accelerator: cpu
          max_steps: 2
          logger: false
          default_root_dir: {tmp_path}
          callbacks:
            - class_path: lightning.pytorch.callbacks.ModelCheckpoint
              init_args: {{dirpath: {tmp_path}, filename: end, enable_version_counter: false}}
        """
    )

    def fit(*arguments):
        cli = visualprm(tmp_path, "fit", "--config", tmp_path / "run.yaml", *arguments)
        return cli.model, tmp_path / "end.ckpt"

    return fit


def parameters(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_options_of_yaml_and_command_line_meet(run, tmp_path):
    overlay = tmp_path / "lora.yaml"
    overlay.write_text("model: {init_args: {backbone: {lora: {rank: 16, targets: [q_proj]}, freeze: [vision]}}}")
    model, _ = run("--config", overlay, "--model.backbone.lora.rank", "3", "--model.backbone.dtype=bfloat16")
    assert model.backbone_options.lora == LoraOptions(rank=3, targets=["q_proj"])
    assert model.backbone_options.freeze == ["vision"]
    assert model.backbone.dtype == torch.bfloat16
    # Over a frozen model the step head is float32, as the adapters are.
    assert model.head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("quantization", "optimizer"),
    [
        (None, "torch.optim.AdamW"),
        ("nf4", "bitsandbytes.optim.PagedAdamW8bit"),
        pytest.param("int8", "bitsandbytes.optim.AdamW8bit", marks=pytest.mark.thorough),
    ],
)
def test_a_checkpoint_of_adapters_holds_what_is_trained(run, family_checkpoint, quantization, optimizer):
    options = ["--model.backbone.lora.rank=3", f"--model.optimizer={optimizer}"]
    if quantization:
        options.append(f"--model.backbone.quantization={quantization}")
    model, path = run(*options)
    assert f"{type(model.trainer.optimizers[0]).__module__}".startswith(optimizer.rsplit(".", 1)[0])
    assert type(model.trainer.optimizers[0]).__name__ == optimizer.rsplit(".", 1)[1]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"head.weight"}
    fresh = ProcessRewardModel(str(family_checkpoint("internvl_qwen2")), backbone=model.backbone_options)
    stepped = {
        name
        for name, value in parameters(model).items()
        if not torch.equal(value, dict(fresh.named_parameters())[name])
    }
    assert stepped >= {"head.weight"}
    assert stepped - {name for name in trained if "lora_A" in name} == {
        name for name in trained if "lora_A" not in name
    }

    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["state_dict"]) == trained
    assert checkpoint["hyper_parameters"]["backbone"]["lora"]["rank"] == 3
    loaded = ProcessRewardModel.load_from_checkpoint(path)
    assert loaded.backbone_options == model.backbone_options
    assert parameters(loaded).keys() == parameters(model).keys()
    assert all(torch.equal(value, parameters(model)[name]) for name, value in parameters(loaded).items())

    resumed, _ = run(*options, f"--ckpt_path={path}", "--trainer.max_steps=3")
    assert resumed.trainer.global_step == 3
    if quantization is None:
        with pytest.raises(ValueError, match="was made with other backbone options: it lacks 28 trained weights"):
            run(*options, "--model.backbone.lora.include_vision=true", f"--ckpt_path={path}")


def test_a_full_checkpoint_holds_everything(run):
    model, path = run("--model.backbone.freeze=[vision]")
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["state_dict"]) == set(model.state_dict())
    loaded = ProcessRewardModel.load_from_checkpoint(path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_run_that_fails_before_it_has_weights_says_why(run, monkeypatch):
    """The address of the process group is taken; models of the command have no weights yet then."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(DistNetworkError, match="EADDRINUSE"):
            run("--trainer.strategy=ddp")


def test_a_frozen_language_model_still_trains_its_step_head(run, family_checkpoint):
    model, _ = run("--model.backbone.freeze=[vision,projector,language_model]", "--model.language_model_weight=1.0")
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {"head.weight"}
    fresh = ProcessRewardModel(str(family_checkpoint("internvl_qwen2")))
    assert not torch.equal(model.head.weight, fresh.head.weight)
    assert torch.equal(model.backbone.lm_head.weight, fresh.backbone.lm_head.weight)


def test_a_saved_policy_has_its_adapters_merged(family_checkpoint, tmp_path):
    folder = str(family_checkpoint("internvl_qwen2"))
    policy = Policy(folder, backbone={"lora": {"rank": 2}}).eval()
    for name, parameter in policy.backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    policy.save_pretrained(tmp_path / "saved")
    plain = Policy(str(tmp_path / "saved")).eval()
    ids = torch.arange(9)[None] + 270
    with torch.no_grad():
        expected = policy.backbone(input_ids=ids).logits
        torch.testing.assert_close(plain.backbone(input_ids=ids).logits, expected, atol=1e-4, rtol=0)
        assert (Policy(folder).eval().backbone(input_ids=ids).logits - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    "name",
    [
        "idefics3",
        "qwen3_text",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in ("internvl_llama", "internvl_qwen3", "llava_onevision")
        ),
    ],
)
def test_every_family_trains_as_a_reward_model(name, tmp_path, run):
    """Two steps of the whole module; the loss moves the head and the language model."""
    write_family(name, tmp_path / name)
    model, path = run(f"--model.model_name_or_path={tmp_path / name}")
    fresh = ProcessRewardModel(str(tmp_path / name))
    now = parameters(model)
    moved = {n for n, value in parameters(fresh).items() if not torch.equal(value, now[n])}
    assert "head.weight" in moved
    assert any(".layers.1." in n for n in moved)
    assert torch.load(path, weights_only=True)["hyper_parameters"]["model_name_or_path"] == str(tmp_path / name)
