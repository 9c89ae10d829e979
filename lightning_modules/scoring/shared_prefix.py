"""Attention of many candidates to one shared prefix, which is neither copied nor expanded.

The candidates of all questions are packed into one row, so no linear layer sees padding. A token attends to the whole
prefix of its question, without a mask, and causally to its own candidate. The two parts are merged exactly through
their log-sum-exps, as in Hydragen (Juravsky et al. 2024, arXiv 2402.05099).

Q questions, P_q prefix tokens of a question, N candidates in all, L tokens of the longest, T tokens in all, H query
heads, G query heads for each key head, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lightning_modules.model.attention_function import attending_by
from lightning_modules.model.families import attention_layers

NAME = "shared_prefix"
_PLAIN_ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
_QUERIES_AT_ONCE = 128  # bounds the score matrix of the plain computation

_AttentionPart = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PackedCandidates:
    """Layout of the packed row.

    Attributes:
        cache: Cache of the prefixes, right-padded: (Q, key heads, longest prefix, D) in each layer.
        prefix_lengths: Q numbers of tokens.
        tokens_of_question: Q numbers of tokens in the row; they add up to T.
        lengths: N numbers of tokens; they add up to T, too.
        slots: (N, L) long, positions in the row of each candidate's tokens; undefined at padding.
        is_token: (N, L) bool, False at padding.
    """

    cache: DynamicCache
    prefix_lengths: list[int]
    tokens_of_question: list[int]
    lengths: list[int]
    slots: Tensor
    is_token: Tensor

    @classmethod
    def of(
        cls, cache: DynamicCache, prefix_lengths: list[int], lengths: Sequence[Sequence[int]], device: torch.device
    ) -> PackedCandidates:
        """Lay out candidates of the given lengths, question after question; a question may have none."""
        in_row = [length for of_question in lengths for length in of_question]
        flat = torch.tensor(in_row, device=device)
        offsets = torch.arange(int(flat.max()), device=device)
        is_token = offsets < flat[:, None]
        slots = ((flat.cumsum(0) - flat)[:, None] + offsets).where(is_token, 0)
        return cls(cache, prefix_lengths, [sum(of_question) for of_question in lengths], in_row, slots, is_token)


_PACKED: ContextVar[PackedCandidates] = ContextVar(NAME)


def shared_prefix_obstacle(backbone: PreTrainedModel) -> str | None:
    """The reason why candidates cannot share a prefix in this model; None if they can.

    They can if every layer of the language model has plain causal attention over all earlier tokens and computes it
    through the attention interface of `transformers`.
    """
    config = backbone.config.get_text_config(decoder=True)
    others = {type(layer).__name__ for layer in DynamicCache(config=config).layers if type(layer) is not DynamicLayer}
    if others:
        return f"its cache has layers of type {', '.join(sorted(others))}"
    if config.is_encoder_decoder or getattr(config, "cross_attention_layers", None):
        return "it has cross-attention"
    if not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", None):
        return "its text attends in both directions"
    for name in ("attn_logit_softcapping", "attention_sinks"):
        if getattr(config, name, None):
            return f"its attention has {name}"
    layers = attention_layers(backbone)
    if len(layers) != config.num_hidden_layers:
        return f"{len(layers)} of its {config.num_hidden_layers} layers have attention that was recognised"
    if any(hasattr(layer, "sinks") for layer in layers):
        return "its attention has sinks"
    if not backbone.get_decoder()._can_set_attn_implementation():
        return "it does not compute attention through the attention interface"
    implementation = config._attn_implementation
    return None if implementation in _PLAIN_ATTENTION else f"its attention implementation is {implementation!r}"


@contextmanager
def attending_to_prefix(backbone: PreTrainedModel, packed: PackedCandidates) -> Iterator[None]:
    """Within this context a forward over a (1, T) row, without cache or mask, reads ``packed`` candidates."""
    token = _PACKED.set(packed)
    try:
        with attending_by(NAME, backbone):
            yield
    finally:
        _PACKED.reset(token)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, *, is_causal: bool) -> _AttentionPart:
    """Attention and its log-sum-exp: (B, H, T, D) and (B, H, T) float32."""
    fits_kernels = key.shape[-1] == value.shape[-1] and key.shape[-1] % 8 == 0
    if fits_kernels and query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=is_causal, scale=scale
        )
    if fits_kernels and query.device.type == "cuda":
        attended, log_sum, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, is_causal=is_causal, scale=scale
        )
        # The kernel rounds the number of queries up.
        return attended, log_sum[..., : query.shape[-2]]
    return plain_attention(query, key, value, scale, is_causal=is_causal)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, *, is_causal: bool) -> _AttentionPart:
    """The same by definition, for devices and head sizes without a kernel; a slice of the queries at a time."""
    parts = []
    for start in range(0, query.shape[-2], _QUERIES_AT_ONCE):
        some = query[..., start : start + _QUERIES_AT_ONCE, :]
        logits = (some @ key.mT).float() * scale
        if is_causal:
            rows = torch.arange(start, start + some.shape[-2], device=key.device)
            logits = logits.masked_fill(torch.arange(key.shape[-2], device=key.device) > rows[:, None], float("-inf"))
        parts.append((logits.softmax(-1).to(value) @ value, logits.logsumexp(-1)))
    attended, log_sums = zip(*parts, strict=True)
    return torch.cat(attended, -2), torch.cat(log_sums, -1)


def _attend_to_prefixes(query: Tensor, layer: int, packed: PackedCandidates, scale: float) -> _AttentionPart:
    """Attention of the row's tokens to the prefix of their question: (H, T, D) and (H, T)."""
    states: Any = packed.cache.layers[layer]
    heads, parts = states.keys.shape[1], []
    pieces = query[0].split(packed.tokens_of_question, 1)
    for question, (piece, length) in enumerate(zip(pieces, packed.prefix_lengths, strict=True)):
        # Query heads that share keys are like more queries: no key is repeated.
        grouped = piece.reshape(1, heads, -1, piece.shape[-1])
        if grouped.shape[-2]:
            keys, values = (s[question : question + 1, :, :length] for s in (states.keys, states.values))
            attended, log_sum = _attend(grouped, keys, values, scale, is_causal=False)
            parts.append((attended.reshape(*piece.shape[:2], -1), log_sum.reshape(piece.shape[:2])))
    attended_parts, log_sums = zip(*parts, strict=True)
    return torch.cat(attended_parts, 1), torch.cat(log_sums, 1)


def _attend_within_candidates(
    query: Tensor, key: Tensor, value: Tensor, packed: PackedCandidates, scale: float
) -> _AttentionPart:
    """Causal attention within each candidate: (H, T, D) and (H, T)."""
    attend = _attend_one_by_one if query.device.type == "cpu" else _attend_padded
    return attend(query, key, value, packed, scale)


def _attend_padded(query: Tensor, key: Tensor, value: Tensor, packed: PackedCandidates, scale: float) -> _AttentionPart:
    """All candidates in one padded call, for devices where calls cost more than arithmetic."""
    groups = query.shape[1] // key.shape[1]
    # (N, heads, L, D); padding stands behind the tokens, which do not see it.
    queries, keys, values = (states[0][:, packed.slots].transpose(0, 1) for states in (query, key, value))
    keys, values = (states.repeat_interleave(groups, 1) for states in (keys, values))
    attended, log_sum = _attend(queries, keys, values, scale, is_causal=True)
    # Tokens are in the order of the row: candidate after candidate.
    return attended.transpose(1, 2)[packed.is_token].transpose(0, 1), log_sum.transpose(1, 2)[packed.is_token].T


def _attend_one_by_one(
    query: Tensor, key: Tensor, value: Tensor, packed: PackedCandidates, scale: float
) -> _AttentionPart:
    """One call per candidate on views, without padding or copies, for devices where calls are cheap."""
    key_heads = key.shape[1]
    groups = query.shape[1] // key_heads
    # (G, key heads, T, D): query heads that share keys stand in the batch, where the keys expand without a copy.
    queries = query[0].unflatten(0, (key_heads, groups)).transpose(0, 1)
    keys, values = (states.expand(groups, -1, -1, -1) for states in (key, value))
    pieces = zip(*(states.split(packed.lengths, 2) for states in (queries, keys, values)), strict=True)
    parts = [_attend(queries, keys, values, scale, is_causal=True) for queries, keys, values in pieces]
    attended, log_sum = (torch.cat(found, 2).transpose(0, 1).flatten(0, 1) for found in zip(*parts, strict=True))
    return attended, log_sum


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention function for the interface of `transformers`, used within :func:`attending_to_prefix`.

    Args:
        module: The attention layer.
        query: (1, H, T, D).
        key: (1, H / G, T, D), as ``value``.
        value: See ``key``.
        attention_mask: None.
        scaling: Scale of the logits; ``D ** -0.5`` by default.

    Returns:
        (1, T, H, D), and None for the weights.
    """
    assert attention_mask is None
    packed = _PACKED.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    shared, shared_log_sum = _attend_to_prefixes(query, int(module.layer_idx), packed, scale)  # type: ignore[arg-type]
    own, own_log_sum = _attend_within_candidates(query, key, value, packed, scale)
    share = torch.sigmoid(shared_log_sum - own_log_sum)[..., None].to(own.dtype)
    return own.lerp(shared, share).transpose(0, 1)[None], None


AttentionInterface.register(NAME, shared_prefix_attention)
