import functools

import pytest
import torch
from bitsandbytes.nn import Linear8bitLt
from tiny_families import EVERY_FAMILY

from lightning_modules.model.backbone import BackboneOptions, load_backbone
from lightning_modules.model.families import part_of
from lightning_modules.model.lora import LoraOptions, merged_backbone
from lightning_modules.model.quantization import floating_weight, is_quantized

IDS = (torch.arange(24).reshape(2, 12) * 7) % 80 + 270
# Quantiles of a normal distribution, from the appendix of the QLoRA paper (arXiv 2305.14314, appendix E).
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
NF4 += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
NF4 += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def layers_of(backbone):
    return {name: module for name, module in backbone.named_modules() if is_quantized(module)}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_the_layers_of_the_language_model_are_quantized_and_nothing_else(family_checkpoint, name, kind):
    backbone = load_backbone(family_checkpoint(name), BackboneOptions(quantization=kind))
    quantized = layers_of(backbone)
    assert len(quantized) == 2 * 7
    parts = part_of(backbone)
    assert {parts[f"{path}.weight"] for path in quantized} == {"language_model"}
    others = {n: p.dtype for n, p in backbone.named_parameters() if n.removesuffix(".weight") not in quantized}
    assert set(others.values()) == {torch.float32}
    assert {part for n, part in parts.items() if dict(backbone.named_parameters())[n].requires_grad} == set(
        parts.values()
    ) - {"language_model"}


def test_nf4_weights_are_quantiles_times_the_largest_of_their_block(family_checkpoint):
    folder = family_checkpoint("internvl_qwen2")
    exact = dict(load_backbone(folder).named_modules())
    codes = torch.tensor(NF4)
    half_gaps = (codes.diff() / 2).max()
    quantized = layers_of(load_backbone(folder, BackboneOptions(quantization="nf4")))
    # Rows of whole blocks; others are read wrongly on a CPU, see below.
    layers = {path: layer for path, layer in quantized.items() if layer.in_features % 64 == 0}
    assert len(layers) == 2
    for path, layer in layers.items():
        blocks, original = floating_weight(layer).reshape(-1, 64), exact[path].weight.detach().reshape(-1, 64)
        largest = original.abs().amax(-1, keepdim=True)
        # The largest of each block is itself stored in 8 bits (double quantization).
        scale = blocks.abs().amax(-1, keepdim=True)
        assert (scale / largest - 1).abs().max() < 0.15
        distance = (blocks / scale - codes[:, None, None]).abs().amin(0)
        assert distance.max() < 1e-3
        assert ((blocks - original).abs() / largest).max() < half_gaps + 0.15


def test_rows_that_are_no_whole_blocks_are_warned_of(family_checkpoint, caplog):
    load_backbone(family_checkpoint("internvl_qwen2"), BackboneOptions(quantization="nf4"))
    assert "on a CPU bitsandbytes reads 4-bit weights wrongly where rows are no multiple of 64: 32 wide" in caplog.text


def test_int8_weights_are_within_half_a_step(family_checkpoint):
    folder = family_checkpoint("internvl_qwen2")
    exact = dict(load_backbone(folder).named_modules())
    for path, layer in layers_of(load_backbone(folder, BackboneOptions(quantization="int8"))).items():
        original = exact[path].weight.detach()
        step = original.abs().amax(-1, keepdim=True) / 127
        # Weights are read in float16 first.
        assert ((floating_weight(layer) - original).abs() <= 0.5 * step + original.abs() * 2**-10).all()


def keep_activations(backbone, monkeypatch):
    """Let quantized layers multiply by their weights without rounding activations to 8 bits, as LLM.int8() does."""
    layers = [module for module in backbone.modules() if isinstance(module, Linear8bitLt)]
    assert len(layers) == 2 * 7
    for layer in layers:
        exact = functools.partial(torch.nn.functional.linear, weight=floating_weight(layer), bias=layer.bias)
        monkeypatch.setattr(layer, "forward", exact)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_adapters_train_over_a_quantized_model_and_merge_into_a_plain_one(family_checkpoint, kind, monkeypatch):
    torch.manual_seed(0)
    folder = family_checkpoint("internvl_qwen2")
    lora = LoraOptions(rank=4, dropout=0.0)
    backbone = load_backbone(folder, BackboneOptions(quantization=kind, lora=lora, gradient_checkpointing=True))
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    frozen = {n: p.detach().clone() for n, p in backbone.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    losses = []
    for _ in range(8):
        # Validation between training steps: bitsandbytes would repack the weights for a CPU with bfloat16 instructions.
        logits(backbone.eval())
        backbone.train()
        loss = torch.nn.functional.cross_entropy(
            backbone(input_ids=IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
        )
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in trained)
        optimizer.step()
    assert losses[-1] < losses[0] - 0.5
    now = dict(backbone.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    merged = merged_backbone(backbone)
    assert layers_of(backbone)
    assert not layers_of(merged)
    assert not hasattr(merged.config, "quantization_config")
    plain = logits(load_backbone(folder).eval())
    if kind == "int8":
        # A merged model does not round activations. What that changes depends on the weights, but is not all.
        assert (logits(merged) - logits(backbone.eval())).norm() < 0.2 * (logits(merged) - plain).norm()
        keep_activations(backbone, monkeypatch)
    expected = logits(backbone.eval())
    assert (expected - plain).abs().max() > 1
    assert (logits(merged) - expected).abs().max() < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantized_training_on_a_gpu(family_checkpoint, kind):
    options = BackboneOptions(
        dtype="bfloat16", quantization=kind, lora=LoraOptions(rank=4), gradient_checkpointing=True
    )
    backbone = load_backbone(family_checkpoint("internvl_qwen2"), options)
    assert {parameter.device.type for parameter in backbone.parameters()} == {"cuda"}
    backbone(input_ids=IDS.cuda()).logits.float().logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters() if p.requires_grad)
    expected = logits_on_gpu(backbone.eval())
    assert (logits_on_gpu(merged_backbone(backbone)) - expected).abs().max() < 0.3


@torch.no_grad()
def logits_on_gpu(model):
    return model(input_ids=IDS.cuda(), use_cache=False).logits.float()
