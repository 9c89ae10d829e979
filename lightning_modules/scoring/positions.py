"""Position ids of prompts that are to be continued."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.model.multimodal_positions import has_multimodal_positions, multimodal_positions
from lightning_modules.scoring.cache import positions_of


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
