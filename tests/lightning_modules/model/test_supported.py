"""Families that cannot be a backbone are refused by name before their weights are read."""

import pytest
from tiny_families import FAMILIES
from transformers import AutoConfig

from lightning_modules.model.backbone import load_backbone, load_processor
from lightning_modules.model.supported import backbone_obstacle

NO_INNER_MODEL = "no model class for it that ends at the hidden states"
CROSS_ATTENTION = "reads images through cross-attention"
SMALL = {"num_hidden_layers": 2}
REFUSED = {
    "florence2": ({}, "encoder-decoder"),
    "udop": ({}, "encoder-decoder"),
    "pix2struct": ({}, "encoder-decoder"),
    "blip": ({}, "no linear language-model head"),
    "blip-2": ({}, NO_INNER_MODEL),
    "instructblip": ({}, NO_INNER_MODEL),
    "kosmos-2": ({}, NO_INNER_MODEL),
    "llama4": ({"text_config": SMALL}, NO_INNER_MODEL),
    "git": ({}, "do not stand among the tokens"),
    "diffusion_gemma": ({}, "by diffusion"),
    "idefics": ({"num_hidden_layers": 2, "cross_layer_interval": 1}, CROSS_ATTENTION),
    "mllama": ({"text_config": {"num_hidden_layers": 2, "cross_attention_layers": [1]}}, CROSS_ATTENTION),
    "paligemma": ({"text_config": {"model_type": "gemma", **SMALL}}, "attends in both directions"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_families_that_cannot_work_are_refused_by_name(tmp_path, family):
    """A folder with a configuration alone: no weights are asked for."""
    settings, reason = REFUSED[family]
    AutoConfig.for_model(family, **settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"models of the family '{family}' cannot be a backbone: .*{reason}"):
        load_backbone(tmp_path)


def test_blip2_over_t5_is_an_encoder_decoder():
    config = AutoConfig.for_model("blip-2", text_config={"model_type": "t5"})
    assert backbone_obstacle(config) == "it is an encoder-decoder model"


@pytest.mark.parametrize("name", FAMILIES)
def test_families_that_work_are_not(name):
    assert backbone_obstacle(FAMILIES[name].make()[1]) is None


def test_language_models_of_the_older_kind_work():
    assert backbone_obstacle(AutoConfig.for_model("gpt2", n_layer=2)) is None


@pytest.mark.parametrize("name", ["internvl_qwen2", "qwen3_text"])
def test_checkpoints_without_chat_template_are_refused_by_name(tmp_path, name):
    processor = FAMILIES[name].make()[0]
    processor.chat_template = None
    processor.save_pretrained(tmp_path)
    FAMILIES[name].make()[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: the checkpoint has no chat template"):
        load_processor(tmp_path)
