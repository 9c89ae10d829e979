import pytest
import small_models
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from lightning_modules.model.flops import peak_operations, recording_operations


def without_unseen_pairs(model, measured, tokens, passes):
    """Written out, attention multiplies what a token may not see, too."""
    text = model.config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    unseen = tokens * (tokens - 1) // 2
    return measured - passes * 4 * unseen * text.num_attention_heads * head_size * text.num_hidden_layers


def count_and_measure(model, inputs, passes=3):
    """Operations of a step by our count and by torch's, on the same batch."""
    model.set_attn_implementation("eager")
    with recording_operations(model) as count:
        model.model(**inputs, use_cache=False)
    with FlopCounterMode(display=False) as counter:
        model.model(**inputs, use_cache=False).last_hidden_state.sum().backward()
    tokens = inputs["input_ids"].shape[1]
    counted = count.of(inputs, torch.tensor([tokens])).item()
    return counted, without_unseen_pairs(model, counter.get_total_flops(), tokens, passes)


@pytest.mark.parametrize("name", ["qwen2", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "smolvlm"])
def test_a_whole_step_against_the_counter_of_torch(name):
    """Within 2 %: torch counts the angles of rotary positions, and input gradients of the pictures' first layer."""
    model = small_models.make_model(name)
    inputs = small_models.make_prompt(name, model, [2], list(range(10, 50)))
    counted, measured = count_and_measure(model, inputs)
    assert counted == pytest.approx(measured, rel=0.02)


@pytest.fixture
def internvl(tiny_checkpoint):
    return AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)


@pytest.fixture
def tiles(internvl):
    ids = torch.randint(20, 200, (1, 40))
    ids[0, 3:11] = internvl.config.image_token_id
    return {"input_ids": ids, "pixel_values": torch.randn(2, 3, 32, 32)}


def test_internvl(internvl, tiles):
    counted, measured = count_and_measure(internvl, tiles)
    assert counted == pytest.approx(measured, rel=0.005)


def test_a_frozen_vision_tower_has_no_backward(internvl, tiles):
    whole, _ = count_and_measure(internvl, tiles)
    for parameter in internvl.model.vision_tower.parameters():
        parameter.requires_grad_(False)
    counted, measured = count_and_measure(internvl, tiles)
    assert counted == pytest.approx(measured, rel=0.005)
    assert counted < 0.95 * whole


class Adapted(nn.Module):
    """A frozen matrix with a trained low-rank one beside it."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, states):
        return self.base(states) + self.up(self.down(states))


def test_adapters_on_a_frozen_model(internvl, tiles):
    internvl.requires_grad_(False)
    for layer in internvl.model.language_model.layers:
        layer.self_attn.q_proj = Adapted(layer.self_attn.q_proj)
        layer.mlp.down_proj = Adapted(layer.mlp.down_proj)
    counted, measured = count_and_measure(internvl, tiles)
    # In the first layer nothing below keys and values is trained, so torch leaves out two products of the attention.
    assert counted == pytest.approx(measured + 2 * 2 * 40 * 40 * 32, rel=0.005)


def test_by_hand(internvl):
    """Two text layers of width 32 (16 a head, intermediate 96), one vision layer of width 16 on 16 patches + 1."""
    layer = 4 * 32 * 32 + 3 * 32 * 96
    with recording_operations(internvl) as count:
        ids = torch.full((2, 12), 30)
        ids[:, :4] = internvl.config.image_token_id
        internvl.model(input_ids=ids, pixel_values=torch.randn(2, 3, 32, 32), use_cache=False)
    assert count.text_per_token == 6 * 2 * layer
    assert count.text_per_pair == 3 * 4 * 32 * 2
    projector = 64 * 32 + 32 * 32
    patches = 8 * 8 * 3 * 16
    vision = 6 * (17 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * projector) + 4 * 16 * patches
    assert count.vision_per_row == vision
    # Five conversations' worth of other sizes, and padding counts nothing.
    later = {"input_ids": torch.zeros(2, 30), "pixel_values": torch.zeros(3, 3, 32, 32)}
    expected = 6 * 2 * layer * 17 + 768 * (55 + 28) + 3 * (vision + 3 * 4 * 16 * 17**2)
    assert count.of(later, torch.tensor([10, 7])).item() == expected


def test_the_vocabulary_head_where_it_is_used(internvl, tiles):
    def per_token(share):
        with recording_operations(internvl) as count:
            states = internvl.model(**tiles, use_cache=False).last_hidden_state
            internvl.lm_head(states[:, : round(share * 40)])
        return count.text_per_token

    assert per_token(0.25) - per_token(0.0) == 6 * internvl.lm_head.weight.numel() / 4


def test_nothing_to_count(internvl):
    with pytest.raises(RuntimeError, match="no forward"), recording_operations(internvl):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in internvl.modules())


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
