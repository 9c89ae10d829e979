"""Attention of running rows: to a prefix that many rows share, which is stored once, and to the tokens of the row.

A row is a text that is being sampled; a forward reads one token of each. The two parts are merged exactly through their
log-sum-exps, as in Hydragen (Juravsky et al. 2024, arXiv 2402.05099). Rows of one prefix are read together, so that
attention to it is a matrix product, and its keys and values are read once.

R rows, M rows of one prefix, P tokens of it, W tokens of the longest row, H query heads, K key heads, G query heads for
each key head, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lightning_modules.generation.own_tokens import OwnTokens
from lightning_modules.model.attention_function import attending_by
from lightning_modules.model.families import attention_layers

NAME = "running_rows"
_HIDDEN = -1e30  # finite, so that a row which sees nothing of a part gets no NaN but the weight 0 for it

_Layer = tuple[Tensor, Tensor]


def cache_layers(model: PreTrainedModel) -> list[Any]:
    """The layers of a fresh cache of the model, which say how much of the past each layer of the model sees."""
    return list(DynamicCache(config=model.config.get_text_config(decoder=True)).layers)


def row_attention_obstacle(model: PreTrainedModel) -> str | None:
    """The reason why rows of this model cannot share a prefix; None if they can.

    They can if every layer of the language model attends to all earlier tokens, or to those within a window, and does
    so through the attention interface of `transformers`.
    """
    layers = cache_layers(model)
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    if others := {type(layer).__name__ for layer in layers if type(layer) not in plain}:
        return (
            f"its cache has layers of type {', '.join(sorted(others))}, which carry a state and cannot be continued "
            f"several times"
        )
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "attention_chunk_size", None):
        return "its layers attend within chunks of the text"
    found = attention_layers(model)
    if sorted(layer.layer_idx for layer in found) != list(range(len(layers))):
        return f"{len(found)} attention layers were recognised where its cache has {len(layers)} layers"
    if not model.get_decoder()._can_set_attn_implementation():
        return "it does not compute attention through the attention interface of transformers"
    return None


class Forward:
    """What one forward over running rows reads and writes.

    Args:
        prefixes: Distinct prefixes of the rows: keys and values (1, K, P, D) of each layer. One that is None stands for
            rows without a prefix; there are no others beside them.
        prefix_of: (R,) index of each row's prefix.
        visible: (R,) how many tokens of its prefix a row sees, from the first one on.
        own: Keys and values of the rows' own tokens; the forward appends those of the tokens that it reads.
        windows: For each layer how many tokens it sees, the current one included; None for all.
        device: Of the model.
    """

    def __init__(
        self,
        prefixes: Sequence[Sequence[_Layer] | None],
        prefix_of: np.ndarray,
        visible: np.ndarray,
        own: OwnTokens,
        windows: Sequence[int | None],
        device: torch.device,
    ) -> None:
        self.prefixes = prefixes
        self.own = own
        self.windows = windows
        self.device = device
        self._visible = visible
        order = np.argsort(prefix_of, kind="stable")
        self.counts = np.bincount(prefix_of, minlength=len(prefixes)).tolist()
        self._rows_of = np.split(order, np.cumsum(self.counts)[:-1])
        self.longest = [int(visible[rows].max(initial=0)) for rows in self._rows_of]
        is_sorted = bool((order == np.arange(len(order))).all())
        self.order = None if is_sorted else torch.from_numpy(order).to(device)
        self._masks: dict[int | None, tuple[list[Tensor | None], Tensor | None]] = {}

    @cached_property
    def inverse(self) -> Tensor:
        """Puts what is sorted by prefixes back into the order of the rows."""
        assert self.order is not None
        return torch.empty_like(self.order).scatter_(0, self.order, torch.arange(len(self.order), device=self.device))

    def masks(self, layer: int) -> tuple[list[Tensor | None], Tensor | None]:
        """What is added to the logits of a layer: for each prefix (M, P), and for the rows' own tokens (R, W)."""
        window = self.windows[layer]
        if window not in self._masks:
            self._masks[window] = self._make_masks(window)
        return self._masks[window]

    def _make_masks(self, window: int | None) -> tuple[list[Tensor | None], Tensor | None]:
        lengths = self.own.lengths + 1  # with the token that is read
        first = np.zeros_like(lengths) if window is None else np.maximum(self._visible + lengths - window, 0)
        of_prefixes = [
            self._mask(first[rows], self._visible[rows], longest)
            for rows, longest in zip(self._rows_of, self.longest, strict=True)
        ]
        return of_prefixes, self._mask(np.maximum(first - self._visible, 0), lengths, int(lengths.max()))

    def _mask(self, first: np.ndarray, end: np.ndarray, width: int) -> Tensor | None:
        """Hides what is not in ``first[row] <= index < end[row]``; None if nothing is hidden."""
        if not width or (first.max() == 0 and end.min() == width):
            return None
        index = np.arange(width)
        is_hidden = (index < first[:, None]) | (index >= end[:, None])
        return torch.from_numpy(np.where(is_hidden, np.float32(_HIDDEN), np.float32(0))).to(self.device)


_FORWARD: ContextVar[Forward] = ContextVar(NAME)


@contextmanager
def attending_as_rows(model: PreTrainedModel, forward: Forward) -> Iterator[None]:
    """Within this context a forward over (R, 1) tokens, without cache or mask, reads running rows."""
    token = _FORWARD.set(forward)
    try:
        with attending_by(NAME, model):
            yield
    finally:
        _FORWARD.reset(token)


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp, by definition.

    Args:
        query: (..., T, D).
        key: (..., P, D).
        value: (..., P, D).
        scale: Factor of the logits.
        mask: Added to the logits, broadcast to (..., T, P).
        softcap: Bound that the logits approach, before the mask is added.

    Returns:
        (..., T, D), and (..., T) float32.
    """
    logits = ((query * scale) @ key.mT).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is not None:
        logits += mask
    largest = logits.amax(-1, keepdim=True)
    weights = logits.sub_(largest).exp_()
    total = weights.sum(-1, keepdim=True)
    attended = (weights.to(value.dtype) @ value) / total.to(value.dtype)
    return attended, (largest + total.log())[..., 0]


def _attend_to_prefix(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The same for the rows of a prefix: query (M, K, G, D), key and value (1, K, P, D), mask (M, P).

    Returns:
        (M, K, G, D) and (M, K, G).
    """
    # Query heads that share keys stand in the batch, where the keys expand without a copy.
    queries = query.permute(2, 1, 0, 3)
    keys, values = (states.expand(len(queries), -1, -1, -1) for states in (key, value))
    fits_kernel = softcap is None and key.shape[-1] == value.shape[-1] and key.shape[-1] % 8 == 0
    # In float16 the mask would be infinite, see `_HIDDEN`.
    if fits_kernel and query.device.type == "cpu" and query.dtype != torch.float16:
        attended, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, attn_mask=None if mask is None else mask[None, None].to(query.dtype), scale=scale
        )
    else:
        attended, log_sum = attend(queries, keys, values, scale, mask, softcap)
    return attended.permute(2, 1, 0, 3), log_sum.permute(2, 1, 0)


def _attend_to_prefixes(
    query: Tensor, layer: int, forward: Forward, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor] | None:
    """Attention of all rows (R, K, G, D) to their prefixes; None if no row has one."""
    if not any(forward.longest):
        return None
    masks, _ = forward.masks(layer)
    sorted_query = query if forward.order is None else query[forward.order]
    parts = []
    pieces = zip(sorted_query.split(forward.counts), forward.prefixes, forward.longest, masks, strict=True)
    for piece, prefix, longest, mask in pieces:
        assert prefix is not None
        keys, values = (states[:, :, :longest] for states in prefix[layer])
        parts.append(_attend_to_prefix(piece, keys, values, scale, mask, softcap))
    attended, log_sum = parts[0] if len(parts) == 1 else (torch.cat(found) for found in zip(*parts, strict=True))
    return (attended, log_sum) if forward.order is None else (attended[forward.inverse], log_sum[forward.inverse])


def row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention function for the interface of `transformers`, used within :func:`attending_as_rows`.

    Args:
        module: The attention layer.
        query: (R, H, 1, D).
        key: (R, K, 1, D), as ``value``.
        value: See ``key``.
        attention_mask: None.
        scaling: Factor of the logits; ``D ** -0.5`` by default.
        softcap: See :func:`attend`.
        s_aux: (H,) logits of the sink of each head, which takes a share of the attention and gives nothing.

    Returns:
        (R, 1, H, D), and None for the weights.
    """
    assert attention_mask is None
    forward = _FORWARD.get()
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    grouped = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
    keys, values = forward.own.append(layer, key, value)
    mask = forward.masks(layer)[1]
    mask = None if mask is None else mask[:, None, None]
    attended, log_sum = attend(grouped, keys, values, scale, mask, softcap)
    shared = _attend_to_prefixes(grouped, layer, forward, scale, softcap)
    if shared is not None:
        share = torch.sigmoid(shared[1] - log_sum)[..., None].to(attended.dtype)
        attended = attended.lerp(shared[0], share)
    if s_aux is not None:
        whole = log_sum if shared is None else torch.logaddexp(shared[1], log_sum)
        sinks = s_aux.float().reshape(1, *grouped.shape[1:3])
        attended = attended * torch.sigmoid(whole - sinks)[..., None].to(attended.dtype)
    return attended.reshape(len(query), 1, -1, attended.shape[-1]), None


AttentionInterface.register(NAME, row_attention)
