"""Multimodal rotary positions (Qwen2-VL, Wang et al. 2024, arXiv 2409.12191).

Models with them have three position ids per token: image tokens are numbered by time, height and width, and the text
behind an image goes on from the largest of them. In text all three are the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel


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
