"""Training batches: padded, padded in groups of similar length, or packed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator

from datamodules.batching.collate import StepCollator
from datamodules.batching.lengths import TokenCounter, lengths_digest, token_lengths
from datamodules.batching.order import LazyLoader, TrainingSampler
from datamodules.batching.packed_order import PackedSampler
from datamodules.batching.packing import PackingCollator
from datamodules.batching.position import TrainingPosition
from datamodules.batching.ranks import ranks_of, same_on_all_ranks
from datamodules.supervision.rows import OnBadRow, drop_bad_rows
from datamodules.supervision.split import Stratum

logger = logging.getLogger(__name__)

Layout = Literal["padded", "grouped", "packed"]


@dataclass(frozen=True)
class BatchLayout:
    """How training conversations are put into batches.

    Attributes:
        batch_size: Conversations of a micro-batch on each rank, if they are padded.
        packed_tokens: Most tokens of a micro-batch, if they are packed; None pads.
        group_by_length: Pad conversations of similar length together.
        on_long_conversation: What to do about conversations of more than ``packed_tokens`` tokens: raise an error, or
            skip and count them. They are never cut.

    Raises:
        ValueError: If ``packed_tokens`` is not positive, or is given together with ``group_by_length``.
    """

    batch_size: int
    packed_tokens: int | None = None
    group_by_length: bool = False
    on_long_conversation: OnBadRow = "error"

    def __post_init__(self) -> None:
        if self.packed_tokens is not None and self.packed_tokens < 1:
            raise ValueError(f"packed_tokens must be at least 1, got {self.packed_tokens}")
        if self.packed_tokens is not None and self.group_by_length:
            raise ValueError("packed_tokens and group_by_length exclude each other: packed batches have no padding")

    def chosen(self, packing_obstacle: str | None) -> Layout:
        """The layout for a model: grouped instead of packed if the model has a packing obstacle, with a warning."""
        if self.packed_tokens is None:
            return "grouped" if self.group_by_length else "padded"
        if packing_obstacle is None:
            return "packed"
        logger.warning(
            "packed_tokens: %s; batches of batch_size=%d conversations of similar length are padded instead",
            packing_obstacle,
            self.batch_size,
        )
        return "grouped"


def measured_rows(
    table: Dataset, collator: StepCollator, layout: BatchLayout, packed: bool, on_bad_row: OnBadRow, num_workers: int
) -> tuple[Dataset, np.ndarray]:
    """Count the tokens of all rows; rows that cannot be counted or are too long are skipped, or are an error.

    Args:
        table: Rows from :func:`datamodules.supervision.rows.read_rows`.
        collator: Collator of the batches.
        layout: Holds the longest allowed length.
        packed: Whether that length applies.
        on_bad_row: What to do about rows that cannot be counted.
        num_workers: DataLoader workers that count.

    Returns:
        The remaining rows, and (n,) tokens of each.

    Raises:
        ValueError: If there are such rows and they are not to be skipped, or if no row remains.
        RuntimeError: If the counts differ between ranks.
    """
    counter = TokenCounter(collator.encoder, collator.max_steps)
    lengths, problems = token_lengths(table, counter, num_workers)
    kept = drop_bad_rows(table, problems, on_bad_row, "train rows")
    lengths = np.delete(lengths, list(problems))
    if packed and layout.packed_tokens is not None:
        most, names = layout.packed_tokens, kept["sample_id"]
        long = {
            row: f"{names[row]}: the conversation has {lengths[row]} tokens, more than packed_tokens={most}"
            for row in np.flatnonzero(lengths > most).tolist()
        }
        if long and layout.on_long_conversation == "error":
            raise ValueError(
                f"{next(iter(long.values()))} (and {len(long) - 1} more of {len(kept)} rows; the longest has "
                f"{lengths.max()}); raise packed_tokens, or set on_long_conversation to 'skip' to leave them out"
            )
        kept = drop_bad_rows(kept, long, "skip", "train rows")
        lengths = np.delete(lengths, list(long))
    if not len(kept):
        raise ValueError("no training rows are left: all are too long or cannot be read")
    same_on_all_ranks(lengths_digest(lengths), "token lengths of training rows")
    return kept, lengths


def training_loader(
    rows: Any,
    collator: Callable[[Any], Any],
    layout: BatchLayout,
    chosen: Layout = "padded",
    *,
    seed: int,
    position: TrainingPosition,
    num_workers: int,
    trainer: Trainer | None,
    lengths: np.ndarray | None = None,
    row_strata: Sequence[Stratum] | None = None,
) -> LazyLoader:
    """The DataLoader of the training batches of this rank.

    Args:
        rows: A dataset with a length; a table of :func:`datamodules.supervision.rows.read_rows` if packed.
        collator: Turns a list of rows into a padded batch.
        layout: Batch sizes.
        chosen: Layout of the model, see :meth:`BatchLayout.chosen`.
        seed: Seed of the order.
        position: Knows where in the epoch training is.
        num_workers: DataLoader workers.
        trainer: Knows the rank and the device of this process; None stands for a single process on the CPU.
        lengths: (n,) tokens of each row; needed unless the layout is "padded".
        row_strata: How often rows are seen; each row once an epoch by default.
    """
    ranks, rank = ranks_of(trainer)
    sampler: TrainingSampler | PackedSampler
    batch_size: int | None = layout.batch_size
    if chosen == "packed":
        assert lengths is not None
        assert layout.packed_tokens is not None
        assert isinstance(collator, StepCollator)
        sampler = PackedSampler(lengths, layout.packed_tokens, seed, position.start, ranks, rank, row_strata)
        collator, batch_size = PackingCollator(collator, layout.packed_tokens), None
    else:
        sampler = TrainingSampler(rows, layout.batch_size, seed, position.start, ranks, rank, row_strata, lengths)
    position.follow(sampler, trainer)
    return LazyLoader(
        rows,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collator,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        # Page-locked memory, from which a GPU copies while it computes.
        pin_memory=trainer is not None and isinstance(trainer.accelerator, CUDAAccelerator),
    )
