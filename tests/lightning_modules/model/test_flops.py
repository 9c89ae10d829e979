import pytest
import small_models
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from lightning_modules.model.backbone import BackboneOptions, prepare_backbone
from lightning_modules.model.families import part_of
from lightning_modules.model.flops import count_operations, peak_operations
from lightning_modules.model.lora import LoraOptions

FAMILIES = ["internvl", "qwen2", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "smolvlm", "gemma3"]
TRAINED = {
    "whole": ("vision", "projector", "language_model"),
    "frozen vision": ("projector", "language_model"),
    "projector": ("projector",),
}


def make(name, tiny_checkpoint):
    if name == "internvl":
        model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
        ids = torch.randint(20, 200, (1, 40))
        ids[0, 3:11] = model.config.image_token_id
        inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32)}
    else:
        model = small_models.make_model(name)
        inputs = small_models.make_prompt(name, model, [2], list(range(10, 50)))
    model.set_attn_implementation("eager")
    return model, inputs


def measured(model, inputs):
    """Operations of a step by torch's counter, without those for pairs of a token and a later one."""
    with FlopCounterMode(display=False) as counter:
        model.base_model(**inputs, use_cache=False).last_hidden_state.sum().backward()
    text, tokens = model.config.get_text_config(), inputs["input_ids"].shape[1]
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    unseen = tokens * (tokens - 1) // 2
    width = text.num_attention_heads * head_size * text.num_hidden_layers
    return counter.get_total_flops() - 3 * 4 * unseen * width


def counted(model, inputs):
    return count_operations(model).of(inputs, torch.tensor([inputs["input_ids"].shape[1]])).item()


@pytest.mark.parametrize(
    ("name", "trained"),
    [(name, trained) for name in FAMILIES for trained in TRAINED if name != "qwen2" or trained == "whole"],
)
def test_against_the_counter_of_torch(name, trained, tiny_checkpoint):
    """Within 3 %: by formula, a patch counts as often in the projector as it has tokens in the text."""
    model, inputs = make(name, tiny_checkpoint)
    parts = part_of(model)
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parts[parameter_name] in TRAINED[trained])
    assert counted(model, inputs) == pytest.approx(measured(model, inputs), rel=0.03)


@pytest.mark.parametrize("include_vision", [False, True])
def test_adapters_on_a_frozen_model(include_vision, tiny_checkpoint):
    """Within 4 % at two layers: in the first one torch leaves out gradients that nothing before it needs."""
    model, inputs = make("internvl", tiny_checkpoint)
    whole = measured(model, inputs)
    prepare_backbone(model, BackboneOptions(lora=LoraOptions(rank=2, dropout=0.0, include_vision=include_vision)))
    found = measured(model, inputs)
    assert counted(model, inputs) == pytest.approx(found, rel=0.04)
    assert found < 0.8 * whole


@pytest.fixture
def internvl(tiny_checkpoint):
    return AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)


def test_by_hand(internvl):
    """Two text layers of width 32 (16 a head, intermediate 96), one vision layer of width 16 on 16 patches + 1."""
    layer = 4 * 32 * 32 + 3 * 32 * 96
    count = count_operations(internvl)
    assert count.per_token["language_model"] == 6 * 2 * layer
    assert count.text_per_pair == 3 * 4 * 32 * 2
    # Four patches become an image token; pixels have no gradient.
    projector, patch = 64 * 32 + 32 * 32, 8 * 8 * 3 * 16
    assert count.per_token["projector"] == 6 * projector
    assert count.per_token["vision"] == 6 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * patch
    assert count.per_token["head"] == 6 * internvl.lm_head.weight.numel()
    ids = torch.zeros(2, 30, dtype=torch.long)
    ids[0, :12] = internvl.config.image_token_id
    batch = {"input_ids": ids, "pixel_values": torch.zeros(3, 3, 32, 32)}
    tile = 17 * count.per_token["vision"] + 3 * 4 * 16 * 17**2 + 4 * 6 * projector
    expected = 6 * 2 * layer * 17 + 768 * (55 + 28) + 3 * tile
    assert count.of(batch, torch.tensor([10, 7])).item() == expected
    predicted = count.of(batch, torch.tensor([10, 7]), predicted=5).item() - expected
    assert predicted == 5 * count.per_token["head"]


def test_frozen_lower_layers(internvl):
    """Nothing before the second layer is trained: two operations a weight there, and one pass of its attention."""
    internvl.requires_grad_(False)
    internvl.model.language_model.layers[1].requires_grad_(True)
    layer = 4 * 32 * 32 + 3 * 32 * 96
    count = count_operations(internvl)
    assert count.text_per_pair == (1 + 3) * 4 * 32
    # The queries' matrix has no input to send a gradient to.
    assert count.per_token["language_model"] == 2 * layer + 6 * layer - 2 * 32 * 32


@pytest.mark.parametrize(
    ("name", "dtype", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989.4e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA H200", torch.bfloat16, 989.4e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
        ("NVIDIA A100-SXM4-80GB", torch.float32, 19.5e12),
        ("NVIDIA L40S", torch.bfloat16, 362e12),
        ("NVIDIA L4", torch.float16, 121e12),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, 165.2e12),
        ("Tesla V100-SXM2-16GB", torch.bfloat16, None),
        ("AMD Instinct MI300X", torch.bfloat16, None),
    ],
)
def test_peaks(name, dtype, rate):
    assert peak_operations(name, dtype) == rate
