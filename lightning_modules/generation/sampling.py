"""Random sampling keyed by (seed, sample): a sample is the same in any batch, order or process."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingParameters:
    """How a policy samples.

    Attributes:
        temperature: Divides the logits, at least 0; 0 is greedy decoding.
        top_p: Nucleus sampling: probability mass that is kept, in (0, 1]; 1 keeps the whole distribution.
        top_k: Only so many of the most likely tokens are kept, before ``top_p`` is looked at; all by default.
        stop: A text ends before the first of these strings that it holds, see
            :func:`lightning_modules.generation.stop_strings.cut_at_stop`.
        max_new_tokens: Most tokens of a text, at least 1.
        seed: With the key of a sample it fixes the random numbers of that sample.

    Raises:
        ValueError: If a setting is out of range.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 1024
    seed: int = 0
    top_k: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, or absent to keep all tokens, got {self.top_k}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"stop must be a list of strings that are not empty, got {self.stop!r}")


def sampling_settings(parameters: SamplingParameters) -> dict[str, Any]:
    """What predictions depend on because of their sampling, by name."""
    settings = asdict(parameters) | {"stop": list(parameters.stop)}
    # Predictions that were begun before there was a top_k, or stop strings, hold no such keys.
    return {name: value for name, value in settings.items() if name not in ("top_k", "stop") or value not in (None, [])}


def uniform_draws(seed: int, keys: list[str], count: int) -> Tensor:
    """Uniform numbers in [0, 1), one row a key: (len(keys), count) float64.

    A row depends on the seed and its key alone, so a sample is the same in any batch, order, or process.
    """
    rows = []
    for key in keys:
        digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=16).digest()
        rows.append(np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(count))
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, count, dtype=torch.float64)


def pick_tokens(logits: Tensor, uniform: Tensor, temperature: float, top_p: float, top_k: int | None = None) -> Tensor:
    """Sample tokens of each row by inverting the cumulative distribution.

    Args:
        logits: (B, V) next-token logits; tokens at -inf are never picked.
        uniform: (B,) numbers in [0, 1), or (B, M) for M tokens of each row.
        temperature: 0 picks the most likely token.
        top_p: The smallest set of most likely tokens whose probability reaches ``top_p`` is kept.
        top_k: Before that, only tokens at least as likely as the k-th most likely one are kept.

    Returns:
        Token ids, of the shape of ``uniform``.
    """
    if uniform.ndim == 1:
        return pick_tokens(logits, uniform[:, None], temperature, top_p, top_k).squeeze(-1)
    if temperature == 0:
        return logits.argmax(-1, keepdim=True).expand_as(uniform)
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    probabilities = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    # A draw just below 1 is rounded to 1, where no entry is above the target.
    target = (uniform.to(cumulative) * total).minimum(total.nextafter(torch.zeros_like(total)))
    # `right=True` finds the first entry above the target, which has a probability above zero.
    return torch.searchsorted(cumulative, target, right=True)
