"""Rotary positions that are stretched by the length of the sequence, so that a prefix depends on what follows it.

With dynamic NTK scaling (Qwen2 and InternLM2 in InternVL2.5) and with LongRoPE, all positions of a sequence change once
it is longer than a bound. Up to there they are ordinary ones.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def stretched_beyond(backbone: PreTrainedModel) -> int | None:
    """Number of positions beyond which the length of a sequence changes its positions; None if it never does."""
    bounds = []
    for module in _stretching_modules(backbone):
        parameters = getattr(module.config, "rope_parameters", None) or {}
        bounds.append(int(parameters.get("original_max_position_embeddings") or module.original_max_seq_len))
    return min(bounds, default=None)


def forget_longer_sequences(backbone: PreTrainedModel) -> None:
    """Make the next forward independent of earlier ones: `transformers` keeps the positions of the longest so far."""
    for module in _stretching_modules(backbone):
        if "dynamic" in module.rope_type and module.max_seq_len_cached != module.original_max_seq_len:
            module.register_buffer("inv_freq", module.original_inv_freq.to(module.inv_freq.device), persistent=False)
            module.max_seq_len_cached = module.original_max_seq_len


def _stretching_modules(backbone: PreTrainedModel) -> list[Any]:
    return [
        module
        for module in backbone.get_decoder().modules()
        if isinstance(kind := getattr(module, "rope_type", None), str) and ("dynamic" in kind or kind == "longrope")
    ]
