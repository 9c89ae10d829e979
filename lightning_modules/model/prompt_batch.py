"""Batch processor outputs of single prompts, for any family's image inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def _pad_to(value: Tensor, sizes: Sequence[int], padding: int) -> Tensor:
    """Pad all dimensions but the first at their ends."""
    missing = [size - have for size, have in zip(sizes, value.shape[1:], strict=True)]
    return pad(value, [amount for size in reversed(missing) for amount in (0, size)], value=padding)


def join_prompts(prompts: Sequence[Mapping[str, Tensor]], pad_id: int) -> dict[str, Tensor]:
    """Pad to the right and concatenate.

    Tensors with one value per token (``attention_mask``, ``token_type_ids``, ...) are padded with zeros, also for
    prompts that lack them. All others belong to images (``pixel_values``, ``image_grid_thw``, ``image_sizes``, ...) and
    are concatenated in order; missing tiles are zeros, as in the processors' own batches.

    Args:
        prompts: Processor outputs, each with ``input_ids`` (1, L).
        pad_id: Any valid token id.

    Returns:
        The inputs of the model, ``input_ids`` (B, longest).
    """
    joined: dict[str, Tensor] = {}
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)
    for name in dict.fromkeys(name for prompt in prompts for name in prompt):
        holders = [prompt for prompt in prompts if name in prompt]
        if all(prompt[name].shape == prompt["input_ids"].shape for prompt in holders):
            padding = pad_id if name == "input_ids" else 0
            kind = holders[0][name].dtype
            rows = [prompt.get(name, torch.zeros_like(prompt["input_ids"], dtype=kind)) for prompt in prompts]
            joined[name] = torch.cat([_pad_to(row, [longest], padding) for row in rows])
        else:
            values = [prompt[name] for prompt in holders]
            sizes = [max(lengths) for lengths in zip(*(value.shape[1:] for value in values), strict=True)]
            joined[name] = torch.cat([_pad_to(value, sizes, 0) for value in values])
    return joined


def continue_prompt(prompt: Mapping[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """A prompt (1, P) followed by text tokens (L,)."""
    longer = dict(prompt)
    for name, value in prompt.items():
        if value.shape == prompt["input_ids"].shape:
            fill = 1 if name == "attention_mask" else 0
            new = ids if name == "input_ids" else torch.full_like(ids, fill)
            longer[name] = torch.cat([value, new[None].to(value)], -1)
    return longer
