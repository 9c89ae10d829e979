"""Packing: conversations one after another in a single row, without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from datamodules.batching.collate import StepBatch, StepCollator, rows_of


def packed_inputs(inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[int]]:
    """Put B padded conversations into one row of T tokens; position ids start at 0 in each conversation.

    Tensors with one value per token, (B, L), are put into the row. Images stay in the order of the conversations. There
    is no attention mask: `transformers` separates conversations by their position ids only if there is none.

    Args:
        inputs: Output of a processor; ``input_ids`` and ``attention_mask`` (B, L).

    Returns:
        The inputs, with ``position_ids`` (1, T); and B + 1 token positions, where each conversation begins, and T.
    """
    mask = inputs["attention_mask"].bool()
    shape = mask.shape
    packed = {
        name: value[mask][None] if value.shape == shape else value
        for name, value in inputs.items()
        if name != "attention_mask"
    }
    packed["position_ids"] = torch.arange(shape[1]).expand(shape)[mask][None]
    return packed, [0, *mask.sum(1).cumsum(0).tolist()]


def pack(batch: StepBatch) -> StepBatch:
    """The same batch with packed inputs, see :func:`packed_inputs`; step positions are those in the row."""
    mask = batch.inputs["attention_mask"].bool()
    inputs, boundaries = packed_inputs(batch.inputs)
    starts = torch.tensor(boundaries[:-1])
    positions = batch.step_positions
    step_tokens = None
    if batch.step_tokens is not None:
        marked, row, step = batch.step_tokens & mask[:, None], *positions.shape
        step_tokens = torch.zeros(row, step, boundaries[-1], dtype=torch.bool)
        conversation, number, token = marked.nonzero(as_tuple=True)
        step_tokens[conversation, number, starts[conversation] + token] = True
    return replace(
        batch,
        inputs=inputs,
        step_positions=torch.where(positions >= 0, positions + starts[:, None], positions),
        step_tokens=step_tokens,
        boundaries=boundaries,
    )


@dataclass(frozen=True)
class PackingCollator:
    """Builds packed batches from rows of process supervision.

    Attributes:
        collator: Encodes the rows.
        max_tokens: Most tokens of a batch.
    """

    collator: StepCollator
    max_tokens: int

    def __call__(self, rows: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]) -> StepBatch:
        """Build a batch; for further errors see :class:`datamodules.batching.collate.StepCollator`.

        Args:
            rows: Rows, or the columns that a table returns for a list of row indices.

        Raises:
            ValueError: Also if the batch has more than ``max_tokens`` tokens, because they were counted wrongly.
        """
        batch = pack(self.collator(rows_of(rows) if isinstance(rows, Mapping) else rows))
        tokens = batch.inputs["input_ids"].shape[1]
        if tokens > self.max_tokens:
            lengths = dict(zip(batch.sample_ids, batch.lengths.tolist(), strict=True))
            raise ValueError(
                f"a packed batch has {tokens} tokens, more than packed_tokens={self.max_tokens}: {lengths}; the images "
                f"have changed since tokens were counted, or this processor was counted wrongly (count anew with "
                f"another cache_dir, or use group_by_length instead)"
            )
        return batch
