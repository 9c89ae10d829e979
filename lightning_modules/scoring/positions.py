"""Positions of prompts: one number a token, or three in models with multimodal rotary positions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.scoring.cache import positions_of


def prompt_positions(backbone: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Positions of padded prompts and where they go on.

    Multimodal rotary positions (Qwen2-VL, Wang et al. 2024, arXiv 2409.12191) number image tokens by time, height and
    width; the text behind an image goes on from the largest number. The model's own rule is asked for them.

    Args:
        backbone: The model.
        inputs: Processor output with ``input_ids`` and ``attention_mask`` (B, L), padded on either side.

    Returns:
        Position ids (B, L), or (3, B, L) where the model needs three; and (B,) the position of the next token, which
        is text: its three numbers are the same.
    """
    mask = inputs["attention_mask"]
    rule = getattr(backbone.base_model, "get_rope_index", None)
    if rule is None or "image_grid_thw" not in inputs:
        return positions_of(mask), mask.sum(-1)
    known = inspect.signature(rule).parameters
    positions, _ = rule(**{name: value for name, value in inputs.items() if name in known})
    return positions, positions.masked_fill(mask == 0, -1).amax((0, -1)) + 1
