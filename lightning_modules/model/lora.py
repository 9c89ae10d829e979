"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): added in place, merged for export.

A model with adapters keeps its `transformers` class and its submodules, such as ``backbone.base_model`` and
``backbone.lm_head``; only the adapted linear layers are wrapped.
"""

from __future__ import annotations

# peft imports bitsandbytes, and that PyTorch's compiler, which takes seconds: only where there are adapters.
import copy
import hashlib
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lightning_modules.distributed.meta_loading import lacks_weights
from lightning_modules.model.families import is_below, language_model_paths, parameters_of
from lightning_modules.model.quantization import floating_weight, forget_quantization, is_quantized

ADAPTER = "default"


@dataclass(frozen=True)
class LoraOptions:
    """Options of adapters, which are trained instead of the weights that they adapt.

    Attributes:
        rank: Rank of each adapter.
        alpha: Scales the update by alpha / rank; None means twice the rank, as in InternVL's fine-tuning.
        dropout: Dropout probability on the adapters' input.
        targets: Last names of linear layers, such as ``q_proj``; None means all linear layers of the language model
            (Dettmers et al. 2023: adapters on all of them are needed to match full fine-tuning).
        include_vision: Add adapters to the vision tower and the projector, too.
        train_projector: Train the projector itself, which is frozen otherwise.
        rank_stabilized: Scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732).
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.05
    targets: list[str] | None = None
    include_vision: bool = False
    train_projector: bool = False
    rank_stabilized: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank must be at least 1, got {self.rank}")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"lora.alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be in [0, 1), got {self.dropout}")
        if self.targets is not None and not self.targets:
            raise ValueError("lora.targets must name a layer; leave it out for all of the language model's")


def target_paths(backbone: PreTrainedModel, options: LoraOptions) -> list[str]:
    """Paths of the linear layers that get adapters; the language-model head is never among them.

    Raises:
        ValueError: If a target names no linear layer.
    """
    decoder, *head = language_model_paths(backbone)
    linear = [
        path
        for path, module in backbone.named_modules()
        if isinstance(module, nn.Linear)
        and not is_below(path, tuple(head))
        and (options.include_vision or is_below(path, (decoder,)))
    ]
    if options.targets is None:
        return linear
    known = sorted({path.rsplit(".", 1)[-1] for path in linear})
    unknown = [target for target in options.targets if target not in known]
    if unknown:
        where = "the model" if options.include_vision else "the language model (include_vision is off)"
        raise ValueError(f"lora.targets: {unknown} are no linear layers of {where}; it has {known}")
    return [path for path in linear if path.rsplit(".", 1)[-1] in options.targets]


def add_lora(backbone: PreTrainedModel, options: LoraOptions) -> None:
    """Add adapters to the model and freeze everything else.

    The adapters are float32 even if the model is bfloat16, because bfloat16 rounds small updates away.

    Raises:
        ValueError: See :func:`target_paths`.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import cast_adapter_dtype

    config = LoraConfig(
        r=options.rank,
        # peft computes with any number, though it declares an integer.
        lora_alpha=2 * options.rank if options.alpha is None else options.alpha,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        target_modules=target_paths(backbone, options),
        use_rslora=options.rank_stabilized,
    )
    with torch.device("meta") if lacks_weights(backbone) else nullcontext():
        inject_adapter_in_model(config, backbone, ADAPTER)
    cast_adapter_dtype(backbone, ADAPTER)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if is_adapter(name) and not parameter.is_meta:
                parameter.copy_(initial_adapter(name, parameter.shape, torch.initial_seed()))
    if options.train_projector:
        for parameter in parameters_of(backbone, "projector", "lora.train_projector"):
            parameter.requires_grad_(True)


def is_adapter(name: str) -> bool:
    """Whether a parameter name is that of an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def initial_adapter(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """Initial value of an adapter's matrix, equal for all strategies and devices: (out, in) float32.

    As in peft: A is uniform between plus and minus 1 / sqrt(in), B is 0.

    Args:
        name: Name of the parameter in the backbone; it selects the random numbers.
        shape: (out, in).
        seed: Seed of the run.
    """
    if ".lora_B." in name:
        return torch.zeros(shape, device="cpu")
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    # Lightning loads models where new tensors are made on the GPU.
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return (2 * torch.rand(shape, generator=generator, device="cpu") - 1) / shape[1] ** 0.5


@torch.no_grad()
def _merged_layer(layer: Any, dtype: torch.dtype) -> nn.Linear:
    base = layer.get_base_layer()
    weight = floating_weight(base).float()
    for adapter in layer.active_adapters:
        weight = weight + layer.get_delta_weight(adapter).float()
    return _linear(base, weight.to(dtype))


def _linear(like: nn.Module, weight: torch.Tensor) -> nn.Linear:
    bias: Any = like.bias
    merged = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    merged.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        merged.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return merged


def merged_backbone(backbone: PreTrainedModel) -> PreTrainedModel:
    """Merge adapters and dequantize: a plain `transformers` model that computes the same function.

    Quantized weights are dequantized to float32, the adapters' updates are added in float32, and the sum is rounded
    once to the model's dtype. A float32 model loses nothing. A bfloat16 model differs from the model with separate
    adapters by that rounding (2**-9 of each weight). A quantized model gives its *dequantized* weights, on which the
    adapters were trained, not the original ones; an 8-bit model also rounds its activations, which the merged one does
    not.

    Args:
        backbone: With or without adapters, quantized or not; it is not changed.

    Returns:
        A model in evaluation mode whose weights need no gradients. To save memory it shares the weights without
        adapters with ``backbone``, except those of the language-model head, into which class rows can be written.
    """
    adapters: Any = sys.modules.get("peft.tuners.lora")  # not loaded: then nobody can have put in any
    dtype = backbone.dtype
    replaced: dict[int, Any] = {}
    inside: set[int] = set()
    for module in backbone.modules():
        if id(module) in inside:
            continue
        if adapters and isinstance(module, adapters.LoraLayer):
            replaced[id(module)] = _merged_layer(module, dtype)
            inside |= {id(child) for child in module.modules()}
        elif is_quantized(module):
            replaced[id(module)] = _linear(module, floating_weight(module).to(dtype))
    head = backbone.get_output_embeddings()
    own = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    shared = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in backbone.parameters()
        if id(parameter) not in own and parameter.is_floating_point()
    }
    merged = copy.deepcopy(backbone, {**shared, **replaced})
    merged.__dict__.pop("peft_config", None)
    forget_quantization(merged)
    return merged.requires_grad_(False).eval()
