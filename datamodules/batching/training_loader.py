"""Training batches: padded, padded in groups of similar length, or packed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator

from datamodules.batching.collate import StepCollator
from datamodules.batching.lengths import TokenCounter, TokenLimit, token_lengths, too_long
from datamodules.batching.order import LazyLoader, TrainingSampler
from datamodules.batching.packed_order import PackedSampler
from datamodules.batching.packing import PackingCollator
from datamodules.batching.position import TrainingPosition
from datamodules.batching.ranks import ranks_of, same_on_all_ranks
from datamodules.storage.bad_rows import MAX_BAD_ROWS, OnBadRow
from datamodules.supervision.rows import drop_bad_rows
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
        on_long_conversation: Raise an error about conversations that are longer than :meth:`limit`, or leave them out
            and say how many. They are never cut.
        max_tokens: Most tokens of a conversation; as many as the model has positions by default.
    """

    batch_size: int
    packed_tokens: int | None = None
    group_by_length: bool = False
    on_long_conversation: OnBadRow = "error"
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("packed_tokens", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
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

    def limit(self, chosen: Layout, positions: int | None) -> TokenLimit | None:
        """How long a conversation may be: the least of what is set, or of the model; None if nothing bounds it.

        Args:
            chosen: See :meth:`chosen`.
            positions: That the model was made for; None if it has no such bound.
        """
        limits = []
        if chosen == "packed" and self.packed_tokens is not None:
            limits.append(TokenLimit(self.packed_tokens, "packed_tokens", "raise packed_tokens"))
        if self.max_tokens is not None:
            limits.append(TokenLimit(self.max_tokens, "max_tokens", "raise max_tokens"))
        elif positions is not None:
            limits.append(TokenLimit(positions, "the model's max_position_embeddings", "set max_tokens above it"))
        return min(limits, default=None)


@dataclass(frozen=True)
class MeasuredRows:
    """Rows that can be used, with their lengths.

    Attributes:
        table: Rows as of :func:`datamodules.supervision.rows.read_rows`.
        lengths: (n,) tokens of each row.
    """

    table: Dataset
    lengths: np.ndarray

    @property
    def digest(self) -> str:
        """Of the lengths."""
        return hashlib.blake2b(np.ascontiguousarray(self.lengths, np.int64).tobytes(), digest_size=8).hexdigest()


def measured_rows(
    table: Dataset,
    counter: TokenCounter,
    limit: TokenLimit | None,
    on_long_conversation: OnBadRow,
    on_bad_row: OnBadRow,
    num_workers: int,
    split: str,
    max_bad_rows: float = MAX_BAD_ROWS,
) -> MeasuredRows:
    """Count the tokens of all rows, and leave out those that cannot be counted or are too long, or raise an error.

    Args:
        table: Rows as of :func:`datamodules.supervision.rows.read_rows`.
        counter: Counts.
        limit: How long a conversation may be; None for any length.
        on_long_conversation: What to do about longer ones.
        on_bad_row: What to do about rows that cannot be counted.
        num_workers: Processes that count.
        split: Names the rows in messages.
        max_bad_rows: Largest share of rows that cannot be counted, see
            :func:`datamodules.supervision.rows.drop_bad_rows`; of long ones there is none, since they were asked for.

    Raises:
        ValueError: If there are such rows and they are not to be skipped, or no others; or ranks count differently.
    """
    lengths, problems = token_lengths(table, counter, num_workers)
    kept = drop_bad_rows(table, problems, on_bad_row, f"{split} rows", max_bad_rows)
    lengths = np.delete(lengths, list(problems))
    long = too_long(kept, lengths, limit) if limit else {}
    if limit and long and on_long_conversation == "error":
        raise ValueError(
            f"{next(iter(long.values()))} (and {len(long) - 1} more of {len(kept)} rows; the longest has "
            f"{lengths.max()}); {limit.remedy}, or set on_long_conversation to 'skip' to leave them out"
        )
    kept = drop_bad_rows(kept, long, "skip", f"{split} rows", max_bad_rows=1.0)
    lengths = np.delete(lengths, list(long))
    if not len(kept):
        raise ValueError(f"no {split} rows are left: all are too long or cannot be read")
    measured = MeasuredRows(kept, lengths)
    same_on_all_ranks(measured.digest, f"token lengths of {split} rows")
    return measured


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
