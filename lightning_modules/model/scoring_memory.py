"""How many candidate tokens go through the model at once, and how ranks agree on the number of forwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from transformers import DynamicCache, PreTrainedModel


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of activations that a candidate token needs at most, without gradients.

    Counted for one layer, as nothing else is kept: the residual stream and its normed copy twice (4 hidden sizes);
    queries, keys and values before and after rotation, as rows and once more as padded candidates with keys repeated
    (5 query and 2 x 2 key sizes, both of all heads together); three attention outputs; gate, up and product of the MLP.

    Args:
        config: Of the language model.
        dtype: Of the activations.
    """
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = (8 * heads + 4 * (getattr(config, "num_key_value_heads", None) or heads)) * size
    return int(dtype.itemsize * (4 * config.hidden_size + attention + 3 * config.intermediate_size))


def tokens_within(memory_gib: float | None, backbone: PreTrainedModel, cache: DynamicCache) -> int | None:
    """Candidate tokens that fit beside the cached prefixes into a budget; at least 1, None without a budget."""
    if memory_gib is None:
        return None
    layers: list[Any] = cache.layers
    held = sum(states.nbytes for layer in layers for states in (layer.keys, layer.values))
    free = memory_gib * 2**30 - held
    return max(1, int(free / bytes_per_token(backbone.config.get_text_config(decoder=True), backbone.dtype)))


def split_into_groups(lengths: Sequence[int], most_tokens: int | None) -> list[list[int]]:
    """Group candidates of like lengths, so that none is padded by much.

    Args:
        lengths: Tokens of each candidate.
        most_tokens: Bound on the number of candidates times the longest of them in each group; a candidate that exceeds
            it by itself is a group. None puts all into one.

    Returns:
        Indices, each once; ascending in each group.
    """
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if groups and (most_tokens is None or (len(groups[-1]) + 1) * longest <= most_tokens):
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return [sorted(group) for group in groups]


def most_on_any_rank(count: int, device: torch.device) -> int:
    """The largest of the ranks' counts; the count itself in a single process. All ranks must call it."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return count
    counts = torch.tensor(count, device=device)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return int(counts)
