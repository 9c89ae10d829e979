"""Texts that are being sampled, one row for all samples that are still the same.

Samples of one request begin as one row. It branches where they differ, and their rows end with them. So what samples
have in common is computed once, and a finished row makes room at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.distributed.sharding import computing_device
from lightning_modules.generation.own_tokens import OwnTokens
from lightning_modules.generation.question_prefixes import Prefix, position_ids
from lightning_modules.generation.row_attention import Forward, attending_as_rows, cache_layers


class RunningRows:
    """Rows that a model reads token by token.

    Attributes:
        prefixes: (R,) prefix of each row.
        visible: (R,) how many tokens of it the row continues.
        tokens: (R, ...) ids sampled so far; the last one of each row is not read yet.
        counts: (R,) number of them.

    Args:
        model: Reads them.
        pad_id: Any valid token id.
    """

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        self.model = model
        self.pad_id = pad_id
        self.device = computing_device(model)
        self.windows = [getattr(layer, "sliding_window", None) for layer in cache_layers(model)]
        self.prefixes = np.zeros(0, dtype=object)
        self.visible = np.zeros(0, dtype=np.int64)
        self.counts = np.zeros(0, dtype=np.int64)
        self.tokens = np.zeros((0, 64), dtype=np.int64)
        self.own = OwnTokens()
        self.tokens_read = 0

    def __len__(self) -> int:
        return len(self.prefixes)

    def read(self) -> Tensor:
        """Read the last token of each row; last hidden states (R, hidden).

        Without rows a token of padding is read, as other ranks need this one (R = 1 then).
        """
        layers: list[list[tuple[Tensor, Tensor]] | None]
        if len(self):
            distinct = {prefix: number for number, prefix in enumerate(dict.fromkeys(self.prefixes))}
            prefix_of = np.array([distinct[prefix] for prefix in self.prefixes])
            shifts = np.array([prefix.shift for prefix in distinct])[prefix_of]
            layers = [prefix.layers for prefix in distinct]
            ids = self.tokens[np.arange(len(self)), self.counts - 1]
            visible, own = self.visible, self.own
        else:
            prefix_of = shifts = visible = np.zeros(1, dtype=np.int64)
            layers, ids, own = [None], np.full(1, self.pad_id), OwnTokens()
            own.lengths = np.zeros(1, dtype=np.int64)
        positions = torch.from_numpy(visible + own.lengths + shifts)[:, None].to(self.device)
        own.begin()
        forward = Forward(layers, prefix_of, visible, own, self.windows, self.device)
        with attending_as_rows(self.model, forward):
            output = self.model.base_model(
                input_ids=torch.from_numpy(ids)[:, None].to(self.device),
                position_ids=position_ids(self.model, positions),
                use_cache=False,
            )
        own.end()
        self.tokens_read += len(self)
        return output.last_hidden_state[:, 0]

    def branch(self, parents: np.ndarray, tokens: np.ndarray, starts: Sequence[tuple[Prefix, int]]) -> np.ndarray:
        """Go on with one row for each pair of a parent and a token; all other rows end.

        Args:
            parents: (C,) ascending: rows, and behind them the ``starts``.
            tokens: (C,) the next token of each.
            starts: Prefixes and how many tokens of them are continued, for texts that begin.

        Returns:
            (C,) the rows of the pairs.
        """
        before, count = len(self), len(parents)
        is_first = np.ones(count, dtype=bool)
        is_first[1:] = parents[1:] != parents[:-1]
        stays = is_first & (parents < min(before, count))
        rows = np.empty(count, dtype=np.int64)
        rows[stays] = parents[stays]
        rows[~stays] = np.setdiff1d(np.arange(count), parents[stays], assume_unique=True)
        order = np.empty(count, dtype=np.int64)
        order[rows] = parents
        began = np.empty(len(starts), dtype=object)
        began[:] = [prefix for prefix, _ in starts]
        nothing = np.zeros(len(starts), dtype=np.int64)
        self.prefixes = np.concatenate([self.prefixes, began])[order]
        self.visible = np.concatenate([self.visible, np.array([length for _, length in starts], dtype=np.int64)])[order]
        self.counts = np.concatenate([self.counts, nothing])[order]
        lengths = np.concatenate([self.own.lengths, nothing])[order]
        is_copied = ~stays & (parents < before)
        self._make_room(count)
        self.tokens[rows[is_copied]] = self.tokens[parents[is_copied]]
        self.own.copy(parents[is_copied], rows[is_copied], lengths)
        self.tokens[rows, self.counts[rows]] = tokens
        self.counts = self.counts + 1
        return rows

    def _make_room(self, rows: int) -> None:
        have, width = self.tokens.shape
        needed = int(self.counts.max(initial=0)) + 1
        if have < rows or width < needed:
            larger = np.zeros((max(have, 2 * rows), width if width >= needed else 2 * needed), dtype=np.int64)
            larger[:have, :width] = self.tokens
            self.tokens = larger

    def sampled(self, row: int) -> list[int]:
        """The ids that were sampled for a row."""
        found: list[int] = self.tokens[row, : self.counts[row]].tolist()
        return found
