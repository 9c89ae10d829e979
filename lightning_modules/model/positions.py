"""Position ids of padded prompts, plain or multimodal.

Models with multimodal rotary positions (Qwen2-VL, Wang et al. 2024, arXiv 2409.12191) have three position ids per
token: image tokens are numbered by time, height and width, and the text behind an image continues from the largest of
them. In text all three are equal.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel


def positions_of(attention_mask: Tensor) -> Tensor:
    """Position ids (batch, length) of padded rows; the first real token of each row has position 0."""
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)


def has_multimodal_positions(backbone: PreTrainedModel) -> bool:
    """Whether tokens of this model have three position ids."""
    return hasattr(backbone.base_model, "get_rope_index")


def multimodal_positions(backbone: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Position ids of conversations with images, by the model's own rule.

    Args:
        backbone: A model that :func:`has_multimodal_positions`.
        inputs: Processor output with ``input_ids`` and ``attention_mask`` (B, L), padded on either side, and
            ``image_grid_thw``. Inputs that the rule does not ask for are ignored.

    Returns:
        (3, B, L) position ids.
    """
    rule: Any = backbone.base_model.get_rope_index
    known = inspect.signature(rule).parameters
    positions: Tensor
    positions, _ = rule(**{name: value for name, value in inputs.items() if name in known})
    return positions


def prompt_positions(backbone: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Position ids of padded prompts, and the position at which each one is continued.

    Args:
        backbone: The model.
        inputs: Processor output with ``input_ids`` and ``attention_mask`` (B, L), padded on either side.

    Returns:
        Position ids (B, L), or (3, B, L) for images in a model with multimodal rotary positions; and (B,) the position
        of the next token. As that is text, all three numbers of it are the same.
    """
    mask = inputs["attention_mask"]
    if "image_grid_thw" not in inputs or not has_multimodal_positions(backbone):
        return positions_of(mask), mask.sum(-1)
    positions = multimodal_positions(backbone, inputs)
    return positions, positions.masked_fill(mask == 0, -1).amax((0, -1)) + 1
