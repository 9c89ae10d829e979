"""Memory budget of scoring: candidate tokens per forward, and the number of forwards of all ranks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from transformers import DynamicCache, PreTrainedModel

from lightning_modules.distributed.sharding import computing_device

CPU_BYTES_AT_ONCE = 64 * 2**20
"""Activations beyond this are memory that the C library hands back and asks for again at every operation: each page is
then zeroed and mapped anew, which costs more than smaller matrix products do (a sixth to a quarter of the time)."""

CPU_TOKENS_AT_ONCE = 512
"""With fewer tokens, matrix products lose their speed."""


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Upper bound on the activation bytes of a candidate token, without gradients.

    One layer counts, as no other activations are stored: the residual stream and its normed copy twice (4 hidden
    sizes); queries, keys and values before and after rotation, in rows and as padded candidates with repeated keys (5
    query and 2 x 2 key sizes, of all heads together); three attention outputs; gate, up and product of the MLP.

    Args:
        config: Configuration of the language model.
        dtype: Dtype of the activations.
    """
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = (8 * heads + 4 * (getattr(config, "num_key_value_heads", None) or heads)) * size
    return int(dtype.itemsize * (4 * config.hidden_size + attention + 3 * config.intermediate_size))


def tokens_at_once(memory_gib: float | None, backbone: PreTrainedModel, cache: DynamicCache) -> int | None:
    """Candidate tokens per forward.

    Args:
        memory_gib: As many as fit into this budget beside the cached prefixes, at least 1. Without a budget there is no
            bound (None), except on a CPU: :data:`CPU_BYTES_AT_ONCE` of activations, or :data:`CPU_TOKENS_AT_ONCE` if
            that is more.
        backbone: The model.
        cache: Cache of the prefixes.
    """
    each = bytes_per_token(backbone.config.get_text_config(decoder=True), backbone.dtype)
    if memory_gib is None:
        return max(CPU_TOKENS_AT_ONCE, CPU_BYTES_AT_ONCE // each) if computing_device(backbone).type == "cpu" else None
    layers: list[Any] = cache.layers
    held = sum(states.nbytes for layer in layers for states in (layer.keys, layer.values))
    return max(1, int((memory_gib * 2**30 - held) / each))


def split_into_groups(lengths: Sequence[int], most_tokens: int | None) -> list[list[int]]:
    """Group candidates of similar lengths, so that there is little padding and groups have similar sizes.

    Args:
        lengths: Tokens of each candidate.
        most_tokens: Bound on (number of candidates) x (length of the longest one) in each group; a candidate that
            exceeds it is a group of its own. None makes one group.

    Returns:
        Groups of indices, ascending in each group; each index occurs once.
    """
    if most_tokens is None:
        return [list(range(len(lengths)))]
    groups = _filled_up(lengths, most_tokens)
    # A small group at the end would be slow: the lowest bound that needs no more groups spreads the tokens.
    bounds = range(most_tokens)
    lowest = bisect_left(bounds, True, key=lambda bound: len(_filled_up(lengths, bound)) <= len(groups))
    return _filled_up(lengths, lowest)


def _filled_up(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if groups and (len(groups[-1]) + 1) * longest <= most_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return [sorted(group) for group in groups]


_IS_ALONE: ContextVar[bool] = ContextVar("on_this_rank_alone", default=False)


@contextmanager
def on_this_rank_alone() -> Iterator[None]:
    """Within this context a rank does not ask the others."""
    token = _IS_ALONE.set(True)
    try:
        yield
    finally:
        _IS_ALONE.reset(token)


def most_on_any_rank(count: int, device: torch.device) -> int:
    """The largest count of all ranks, which must call this together unless :func:`on_this_rank_alone`."""
    if _IS_ALONE.get() or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return count
    counts = torch.tensor(count, device=device)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return int(counts)
