import pytest
import torch
from tiny_families import EVERY_FAMILY, FAMILIES, MULTIMODAL
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from lightning_modules.model.backbone import BackboneOptions, load_backbone
from lightning_modules.model.families import part_of
from lightning_modules.model.lora import LoraOptions, initial_adapter, merged_backbone

IDS = (torch.arange(24).reshape(2, 12) * 7) % 80 + 270


def trained(backbone):
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


def with_lora(folder, **options):
    lora = LoraOptions(**{"rank": 2, "dropout": 0.0} | options.pop("lora", {}))
    return load_backbone(folder, BackboneOptions(lora=lora, **options)).eval()


def disturb(backbone):
    """Give the adapters, which start as zero, an effect."""
    torch.manual_seed(1)
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def plain(folder):
    model_class = AutoModelForImageTextToText if FAMILIES[folder.name].is_multimodal else AutoModelForCausalLM
    return model_class.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_adapters_are_on_every_layer_of_the_language_model_alone(family_checkpoint, name):
    backbone = with_lora(family_checkpoint(name))
    parts = part_of(backbone)
    assert {parts[found] for found in trained(backbone)} == {"language_model"}
    adapted = {found.split(".lora_")[0] for found in trained(backbone)}
    assert all(".lora_A." in found or ".lora_B." in found for found in trained(backbone))
    # Two layers: q, k, v, o; gate, up, down.
    assert len(adapted) == 2 * 7
    torch.testing.assert_close(logits(backbone), logits(plain(family_checkpoint(name))))


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_the_merged_model_is_a_plain_one_with_the_same_outputs(family_checkpoint, name, tmp_path):
    backbone = with_lora(family_checkpoint(name))
    disturb(backbone)
    backbone.train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    merged = merged_backbone(backbone)
    assert backbone.training
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    reference = plain(family_checkpoint(name))
    assert type(merged) is type(reference)
    assert list(merged.state_dict()) == list(reference.state_dict())
    expected = logits(backbone.eval())
    assert (expected - logits(reference)).abs().max() > 1e-2
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path)
    loaded = type(reference).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(merged))


def test_merging_by_hand(family_checkpoint):
    """W + alpha / rank * B A, for one layer; rank-stabilized: alpha / sqrt(rank)."""
    for options, scale in (
        ({"rank": 4, "alpha": 6.0}, 6 / 4),
        ({"rank": 4, "alpha": 6.0, "rank_stabilized": True}, 3.0),
        ({"rank": 4}, 2.0),
    ):
        backbone = with_lora(family_checkpoint("internvl_qwen2"), lora=options)
        disturb(backbone)
        layer = backbone.model.language_model.layers[1].mlp.up_proj
        up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        merged = merged_backbone(backbone).model.language_model.layers[1].mlp.up_proj
        assert type(merged) is torch.nn.Linear
        torch.testing.assert_close(merged.weight, layer.base_layer.weight + scale * up @ down)


def test_class_rows_written_into_a_merged_head_stay_out_of_the_training_model(family_checkpoint):
    backbone = with_lora(family_checkpoint("internvl_qwen2"))
    before = backbone.lm_head.weight.clone()
    merged = merged_backbone(backbone)
    with torch.no_grad():
        merged.lm_head.weight[3] += 1
    assert torch.equal(backbone.lm_head.weight, before)
    # What no adapter touched is not held twice.
    embeddings = merged.get_input_embeddings().weight
    assert embeddings.data_ptr() == backbone.get_input_embeddings().weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_a_model_without_adapters_merges_to_itself(family_checkpoint):
    backbone = load_backbone(family_checkpoint("internvl_qwen2"), BackboneOptions(gradient_checkpointing=True))
    assert torch.equal(logits(merged_backbone(backbone)), logits(backbone.eval()))


def test_a_bfloat16_model_keeps_float32_adapters(family_checkpoint):
    backbone = with_lora(family_checkpoint("internvl_qwen2"), dtype="bfloat16")
    disturb(backbone)
    assert {p.dtype for p in backbone.parameters() if p.requires_grad} == {torch.float32}
    merged = merged_backbone(backbone)
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    layer = backbone.model.language_model.layers[0].self_attn.q_proj
    update = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    exact = layer.base_layer.weight.float() + update
    found = merged.model.language_model.layers[0].self_attn.q_proj.weight
    # One rounding of the sum, not two.
    assert torch.equal(found, exact.to(torch.bfloat16))


def test_targets(family_checkpoint):
    folder = family_checkpoint("qwen3_vl")
    backbone = with_lora(folder, lora={"targets": ["q_proj", "v_proj"]})
    assert {found.split(".lora_")[0].rsplit(".", 1)[1] for found in trained(backbone)} == {"q_proj", "v_proj"}
    with pytest.raises(
        ValueError, match=r"lora.targets: \['qkv'\] are no linear layers of the language model \(include"
    ):
        with_lora(folder, lora={"targets": ["q_proj", "qkv"]})
    both = with_lora(folder, lora={"targets": ["q_proj", "qkv"], "include_vision": True})
    assert {part_of(both)[found] for found in trained(both)} == {"language_model", "vision"}


@pytest.mark.parametrize("name", MULTIMODAL)
def test_the_projector_can_be_trained_beside_adapters(family_checkpoint, name):
    backbone = with_lora(family_checkpoint(name), lora={"train_projector": True})
    parts = part_of(backbone)
    projector = {found for found, part in parts.items() if part == "projector"}
    assert projector
    assert projector == {found for found in trained(backbone) if "lora_" not in found}


@pytest.mark.parametrize("kind", ["lora_A", "lora_B"])
def test_adapters_begin_alike_wherever_new_tensors_are_made(kind):
    """Lightning loads a model where that is the GPU; "meta" stands for it."""
    name, shape = f"layers.0.q_proj.{kind}.default.weight", torch.Size([4, 6])
    with torch.device("meta"):
        begun = initial_adapter(name, shape, 3)
    torch.testing.assert_close(begun, initial_adapter(name, shape, 3), rtol=0, atol=0)
    assert begun.any() == (kind == "lora_A")


def test_options_are_checked():
    for wrong, message in (
        ({"rank": 0}, "rank must be"),
        ({"dropout": 1.0}, "dropout must"),
        ({"targets": []}, "name a"),
    ):
        with pytest.raises(ValueError, match=message):
            LoraOptions(**wrong)
