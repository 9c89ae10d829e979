"""Modules back from the checkpoints of their runs: files, folders of sharded runs, and what does not fit."""

import json
import os
import pickle
from functools import partial

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForImageTextToText, AutoProcessor

from datamodules.visual_prm_400k import VisualPRM400KDataModule
from lightning_modules.export.trained_module import load_module, read_checkpoint
from lightning_modules.model.backbone import BackboneOptions
from lightning_modules.model.lora import LoraOptions
from lightning_modules.objectives.step_loss import LossOptions
from lightning_modules.policy import Policy
from lightning_modules.process_reward import ProcessRewardModel

QUESTION, RESPONSE = "How many digits are larger than 4 ?", "The digits are 3 , 7\n\nSo 9\n\nSo 2"


@pytest.fixture(scope="module")
def data(tmp_path_factory, picture):
    """Makes a data module over six rows of two sources."""
    folder = tmp_path_factory.mktemp("data")
    picture(1).save(folder / "1.png")
    rows = [
        {
            "image": "1.png",
            "question": f"How many digits are larger than {number} ?",
            "source": "geometry" if number < 4 else "algebra | <b>",
            "steps_with_score": [
                {"step": "The digits are 3", "score": 1, "num_mc_correct": 4, "num_mc_total": 4},
                {"step": "So 7", "score": number % 2, "num_mc_correct": 4 * (number % 2), "num_mc_total": 4},
            ],
        }
        for number in range(6)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return partial(
        VisualPRM400KDataModule,
        train_annotations=[str(folder / "rows.jsonl")],
        validation_annotations=[str(folder / "rows.jsonl")],
        batch_size=3,
        cache_dir=str(folder / "cache"),
    )


def fit(model, data, folder):
    """Two steps of training; returns the checkpoint of their end."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(folder, "last")],
    )
    trainer.fit(model, datamodule=data())
    return folder / "last.ckpt"


def make(checkpoint, **options):
    settings = {"learning_rate": 1e-2, "system_prompt": "You check .", "objective": "soft", **options}
    return ProcessRewardModel(str(checkpoint), **settings)


def as_folder(path, folder):
    """The checkpoint in a file as ModelParallelStrategy writes it: weights and optimizers sharded, the rest beside."""
    checkpoint = torch.load(path, weights_only=True)
    sharded = {"state_dict": checkpoint.pop("state_dict")}
    sharded |= {f"optimizer_{index}": state for index, state in enumerate(checkpoint.pop("optimizer_states"))}
    dcp.save(sharded, checkpoint_id=folder, no_dist=True)
    torch.save(checkpoint, folder / "meta.pt")
    return folder


@pytest.fixture(scope="module")
def trained(sharp_checkpoint, data, tmp_path_factory):
    """A model after some training, its checkpoint as a file and as a folder."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = make(sharp_checkpoint, loss=LossOptions(focal_gamma=1.0))
    path = fit(model, data, folder)
    return model.eval(), path, as_folder(path, folder / "sharded.ckpt")


def scores(model, picture):
    return model.score(picture(1), QUESTION, [RESPONSE]).step_scores[0]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_from_what_the_checkpoint_says(trained, picture, kind):
    model, file, folder = trained
    again = load_module(file if kind == "file" else folder)
    assert isinstance(again, ProcessRewardModel)
    assert scores(again, picture) == pytest.approx(scores(model, picture), abs=1e-6)
    assert again.protocol == model.protocol
    assert again.step_loss.options == LossOptions(focal_gamma=1.0)
    assert not again.training
    record = again.training_record
    assert record["sources"] == {"geometry": 4, "algebra | <b>": 2}
    assert record["steps"] == 2
    assert record["metrics"].keys() >= {"validation/auroc", "validation/macro_f1", "validation/mean_squared_error"}
    untrained = make(model.hparams["model_name_or_path"]).eval()
    assert scores(untrained, picture) != pytest.approx(scores(model, picture), abs=1e-3)


def test_lightning_loads_it_too(trained, picture):
    model, file, _ = trained
    again = ProcessRewardModel.load_from_checkpoint(file, map_location="cpu", weights_only=True)
    assert again.step_loss.options == LossOptions(focal_gamma=1.0)
    assert scores(again, picture) == pytest.approx(scores(model, picture), abs=1e-6)


def test_the_optimizer_of_a_folder_is_not_read(trained):
    _, _, folder = trained
    found = read_checkpoint(folder)
    assert not any(name.startswith("optimizer") for name in found)
    assert found["hyper_parameters"]["objective"] == "soft"


def test_from_a_configuration(trained, picture, tmp_path, sharp_checkpoint):
    model, file, _ = trained
    config = {
        "model": {
            "class_path": "lightning_modules.process_reward.ProcessRewardModel",
            "init_args": {
                "model_name_or_path": "/not/here/any/more",
                "objective": "soft",
                "system_prompt": "You check .",
                "loss": {"focal_gamma": 1.0},
                "backbone": {"dtype": "auto"},
                "optimizer": {"class_path": "bitsandbytes.optim.AdamW8bit"},
            },
        },
        "trainer": {"max_epochs": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    again = load_module(file, tmp_path / "config.yaml", str(sharp_checkpoint))
    assert scores(again, picture) == pytest.approx(scores(model, picture), abs=1e-6)
    for content, message in (("model: [", "not valid YAML"), ("trainer: {}", "must have a 'model' with class_path")):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(ValueError, match=f"config.yaml: {message}"):
            load_module(file, tmp_path / "config.yaml")


def test_old_names_of_settings(trained, picture, tmp_path, sharp_checkpoint, caplog):
    """In the config.yaml of a run and among the hyperparameters of a checkpoint."""
    model, file, _ = trained
    settings = {"model_name_or_path": str(sharp_checkpoint), "objective": "soft", "system_prompt": "You check ."}
    section = {
        "class_path": "lightning_modules.process_reward.ProcessRewardModel",
        "init_args": {**settings, "warmup_share": 0.25},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": section}))
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["hyper_parameters"]["warmup_ratio"]
    checkpoint["hyper_parameters"]["warmup_share"] = 0.25
    torch.save(checkpoint, tmp_path / "old.ckpt")
    for source, again in (
        (tmp_path / "config.yaml", load_module(file, tmp_path / "config.yaml")),
        (tmp_path / "old.ckpt", load_module(tmp_path / "old.ckpt")),
    ):
        assert again.hparams["warmup_ratio"] == 0.25
        assert scores(again, picture) == pytest.approx(scores(model, picture), abs=1e-6)
        assert f"{source}: model" in caplog.text
        assert "has a new name; write model" in caplog.text


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_adapters(sharp_checkpoint, data, picture, tmp_path, kind):
    """A checkpoint of adapters is small, and complete with its base."""
    model = make(sharp_checkpoint, backbone=BackboneOptions(lora=LoraOptions(rank=4)))
    path = fit(model, data, tmp_path)
    names = torch.load(path, weights_only=True)["state_dict"]
    assert any("lora_B" in name for name in names)
    assert not any("embed_tokens" in name for name in names)
    if kind == "folder":
        path = as_folder(path, tmp_path / "sharded.ckpt")
    again = load_module(path)
    assert scores(again, picture) == pytest.approx(scores(model.eval(), picture), abs=1e-6)
    again.save_pretrained(tmp_path / "export")
    exported = ProcessRewardModel.from_pretrained(tmp_path / "export")
    assert scores(exported, picture) == pytest.approx(scores(model, picture), abs=1e-5)


def test_a_policy(sharp_checkpoint, tmp_path):
    policy = Policy(str(sharp_checkpoint))
    with torch.no_grad():
        policy.backbone.lm_head.weight.mul_(2)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(policy)
    trainer.save_checkpoint(tmp_path / "policy.ckpt")
    again = load_module(tmp_path / "policy.ckpt")
    assert isinstance(again, Policy)
    assert torch.equal(again.backbone.lm_head.weight, policy.backbone.lm_head.weight)


@pytest.mark.parametrize("kind", ["nf4", pytest.param("int8", marks=pytest.mark.thorough)])
def test_adapters_over_a_quantized_model(family_checkpoint, data, tmp_path, kind):
    options = BackboneOptions(quantization=kind, lora=LoraOptions(rank=4, dropout=0.0))
    model = make(family_checkpoint("internvl_qwen2"), backbone=options)
    path = fit(model, data, tmp_path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.2)
    model.trainer.save_checkpoint(path)
    again = load_module(path)
    expected = model.eval().score(None, QUESTION, [RESPONSE]).step_scores[0]
    assert again.score(None, QUESTION, [RESPONSE]).step_scores[0] == pytest.approx(expected, abs=1e-6)
    untrained = make(family_checkpoint("internvl_qwen2"), backbone=options).eval()
    assert untrained.score(None, QUESTION, [RESPONSE]).step_scores[0] != pytest.approx(expected, abs=1e-3)
    again.save_pretrained(tmp_path / "export")
    exported = ProcessRewardModel.from_pretrained(tmp_path / "export")
    # LLM.int8() rounds activations too, which a merged model does not.
    found = exported.score(None, QUESTION, [RESPONSE]).step_scores[0]
    assert found == pytest.approx(expected, abs=1e-4 if kind == "nf4" else 0.1)


def test_adapters_of_a_policy_whose_embeddings_and_head_are_tied(sharp_checkpoint, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(sharp_checkpoint)
    for config in (model.config, model.config.text_config):
        config.tie_word_embeddings = True
    model.lm_head.weight = model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "tied")
    AutoProcessor.from_pretrained(sharp_checkpoint).save_pretrained(tmp_path / "tied")
    policy = Policy(str(tmp_path / "tied"), backbone=BackboneOptions(lora=LoraOptions(rank=2))).eval()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.2)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.strategy.connect(policy)
    trainer.save_checkpoint(tmp_path / "policy.ckpt")
    load_module(tmp_path / "policy.ckpt").save_pretrained(tmp_path / "export")
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "export")
    assert exported.lm_head.weight is exported.get_input_embeddings().weight
    ids = torch.arange(9)[None] + 5
    with torch.no_grad():
        expected = policy.backbone(input_ids=ids).logits
        torch.testing.assert_close(exported(input_ids=ids).logits, expected, atol=1e-4, rtol=0)


# ------------------------------------------------------------------ mistakes


def changed(path, tmp_path, change):
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint["state_dict"])
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_args": {"learningrate": 1}}, "Option 'learningrate' is not accepted"),
        ({"class_path": "lightning_modules.nowhere.Model"}, "lightning_modules.nowhere"),
        ({"init_args": {"backbone": {"lora": {"rnk": 2}}}}, "rnk"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(trained, sharp_checkpoint, tmp_path, changes, message):
    section = {"class_path": "lightning_modules.process_reward.ProcessRewardModel"} | changes
    section["init_args"] = {"model_name_or_path": str(sharp_checkpoint)} | section.get("init_args", {})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": section}))
    with pytest.raises(ValueError, match=rf"(?s)config\.yaml: .*{message}"):
        load_module(trained[1], tmp_path / "config.yaml")


def test_weights_that_do_not_fit_are_named(trained, tmp_path):
    _, file, _ = trained

    with pytest.raises(ValueError, match="does not fit ProcessRewardModel") as caught:
        load_module(changed(file, tmp_path, lambda weights: weights.pop("backbone.lm_head.weight")))
    assert "it lacks 1 weights (backbone.lm_head.weight)" in str(caught.value)

    def replace(weights):
        weights["backbone.more"] = torch.zeros(2)
        weights["backbone.lm_head.weight"] = torch.zeros(3, 4)

    with pytest.raises(ValueError, match=r"Give the config\.yaml of its run") as caught:
        load_module(changed(file, tmp_path, replace))
    assert "it has unexpected 1 weights (backbone.more)" in str(caught.value)
    assert "1 weights of another shape (backbone.lm_head.weight: [3, 4] for [" in str(caught.value)
    with pytest.raises(ValueError, match=r"does not fit Policy .* it lacks \d+ weights \(backbone"):
        load_module(changed(file, tmp_path, lambda weights: [weights.pop(name) for name in list(weights)]))


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_module(tmp_path / "missing.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text.ckpt: is no checkpoint of PyTorch, or was cut short \(13 bytes\)"):
        load_module(tmp_path / "text.ckpt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="is not a Lightning checkpoint: it has no 'state_dict'"):
        load_module(tmp_path / "other.ckpt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is not a checkpoint folder of Lightning: '.metadata' is missing"):
        load_module(tmp_path / "empty")
    torch.save({"state_dict": {"head.weight": torch.zeros(2)}}, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="does not say which model it began with; give --config or"):
        load_module(tmp_path / "bare.ckpt")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("/tmp/visualprm_test_payload_was_run",)


def test_nothing_of_a_checkpoint_is_run(tmp_path):
    torch.save({"state_dict": {}, "more": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint of plain values"):
        load_module(tmp_path / "evil.ckpt")
    folder = tmp_path / "evil"
    dcp.save({"state_dict": {"a": torch.zeros(2)}}, checkpoint_id=folder, no_dist=True)
    torch.save({}, folder / "meta.pt")
    read_checkpoint(folder)
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = Payload()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=r"\.metadata: cannot be read as the index .* asks for posix.mkdir"):
        read_checkpoint(folder)
    (folder / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="is not the index of a checkpoint, but dict"):
        read_checkpoint(folder)
    assert not os.path.exists("/tmp/visualprm_test_payload_was_run")
