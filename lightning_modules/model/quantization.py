"""Quantize the language model's matrices to 4 or 8 bits with bitsandbytes, and dequantize them."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel

from lightning_modules.model.families import is_below, language_model_paths

logger = logging.getLogger(__name__)

_NF4_BLOCK = 64

Quantization = Literal["nf4", "int8"]


def quantization_arguments(model_class: Any, config: AutoConfig, kind: Quantization, dtype: torch.dtype) -> dict:
    """Arguments of `from_pretrained` that quantize only the linear layers of the text decoder.

    The vision tower, the projector and the language-model head (the step head starts from its rows) stay in ``dtype``.

    Args:
        model_class: The auto class that will load the checkpoint.
        config: Configuration of the checkpoint.
        kind: ``nf4``: 4-bit NormalFloat with double quantization (Dettmers et al. 2023, arXiv 2305.14314). ``int8``:
            LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339).
        dtype: Dtype of the matrix products.
    """
    with torch.device("meta"):
        skeleton = model_class.from_config(config)
    decoder = language_model_paths(skeleton)[:1]
    kept = [
        path
        for path, module in skeleton.named_modules()
        if isinstance(module, nn.Linear) and not is_below(path, decoder)
    ]
    if kind == "nf4":
        widths = {m.in_features for m in skeleton.get_submodule(decoder[0]).modules() if isinstance(m, nn.Linear)}
        if not torch.cuda.is_available() and (odd := sorted(width for width in widths if width % _NF4_BLOCK)):
            logger.warning(
                "on a CPU bitsandbytes reads 4-bit weights wrongly where rows are no multiple of %d: %s wide; what is "
                "trained is not close to the checkpoint",
                _NF4_BLOCK,
                ", ".join(map(str, odd)),
            )
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=kept,
        )
    else:
        quantization = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    # Every process of a machine quantizes on its own GPU; Lightning moves the rest there later.
    device = int(os.environ.get("LOCAL_RANK", 0)) if torch.cuda.is_available() else "cpu"
    return {"quantization_config": quantization, "device_map": {"": device}}


def keep_weights_as_loaded(backbone: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in evaluation mode on CPUs with bfloat16 instructions.

    Repacking rounds the scales of the weights to bfloat16 permanently, so a validation would change the trained model.
    It also refuses layers whose output size is not a multiple of 32.
    """
    for module in backbone.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - no attribute that types know


def is_quantized(module: nn.Module) -> bool:
    """Whether a linear layer holds 4-bit or 8-bit weights."""
    return type(getattr(module, "weight", None)).__name__ in ("Params4bit", "Int8Params")


def floating_weight(layer: nn.Module) -> Tensor:
    """The weight of a linear layer in floating point (float32 if it is quantized), (output size, input size)."""
    weight: Any = layer.weight
    if not is_quantized(layer):
        return weight.detach()
    import bitsandbytes.functional as bnb

    if type(weight).__name__ == "Params4bit":
        return bnb.dequantize_4bit(weight.data, weight.quant_state).float()
    state: Any = layer.state
    scale = weight.SCB if weight.SCB is not None else state.SCB
    return bnb.int8_vectorwise_dequant(weight.data, scale).float()


def forget_quantization(backbone: PreTrainedModel) -> None:
    """Remove the quantization marks of a model whose layers are all dequantized."""
    backbone.config.__dict__.pop("quantization_config", None)
    for name in ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        backbone.__dict__.pop(name, None)
