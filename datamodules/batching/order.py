"""The order of training samples: shuffled by (seed, epoch), split over ranks, entered anywhere when a run resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from datamodules.batching.position import EpochStart
from datamodules.supervision.split import Stratum

BLOCKS_OF_WINDOW = 32
"""Number of batches of all ranks that are sorted by length together, if batches are grouped by length."""


class TrainingSampler(DistributedSampler[Any]):
    """Indices of this rank for the current epoch, from the start of the epoch or from where a resumed run continues.

    The order depends on seed and epoch only. Batch b of all ranks together is the b-th block of the order. Samples at
    the end of the order that do not fill a batch of all ranks are left out, if there is at least one whole batch.

    A row of weight 2.5 is seen two or three times an epoch. Which rows are seen once more changes from epoch to epoch,
    so that over the epochs all rows of a source are seen equally often.

    It is a `DistributedSampler`, so that Lightning does not replace it.

    Args:
        dataset: Anything with a length.
        batch_size: Rows of a micro-batch on one rank.
        seed: Seed of the order.
        start: Maps an epoch to where its iteration starts; called when the iteration starts.
        num_replicas: Number of ranks.
        rank: Rank of this process.
        strata: How often rows are seen; each row once by default.
        lengths: (n,) tokens of each row; batches then have rows of similar length, in random order.

    Raises:
        ValueError: If there are fewer samples than ranks.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int = 0,
        start: Callable[[int], EpochStart] = lambda epoch: EpochStart(),
        num_replicas: int = 1,
        rank: int = 0,
        strata: Sequence[Stratum] | None = None,
        lengths: np.ndarray | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.start = start
        self.strata = strata
        self.lengths = lengths
        self.length = len(dataset) if strata is None else sum(stratum.samples for stratum in strata)
        self.num_samples = self._samples_left(EpochStart()) // num_replicas
        if not self.num_samples:
            raise ValueError(f"{self.length} training samples are too few for {num_replicas} ranks")

    def order(self, made_for: int | None = None) -> np.ndarray:
        """All samples of the epoch, of all ranks; if grouped, for batches of ``made_for`` rows of all ranks."""
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.length)
        if self.strata is not None:
            order = rows_of_epoch(self.length, self.strata, self.seed, self.epoch)[order]
        if self.lengths is None:
            return order
        block = made_for or self.batch_size * self.num_replicas
        whole = self.length // block * block or self.length
        grouped = grouped_by_length(order[:whole], self.lengths, block, random)
        return np.concatenate([grouped, order[whole:]])

    def __iter__(self) -> Iterator[int]:
        start = self.start(self.epoch)
        end = start.done + self._samples_left(start)
        yield from self.order(start.made_for)[start.done : end][self.rank :: self.num_replicas].tolist()

    def _samples_left(self, start: EpochStart) -> int:
        """Samples of all ranks together, from there to the end of the epoch."""
        block, left = self.batch_size * self.num_replicas, self.length - start.done
        # What is less than a batch of all ranks, a small dataset or the rest of a resumed epoch, is one smaller batch.
        return left // block * block or left // self.num_replicas * self.num_replicas

    def batches_left(self, start: EpochStart) -> int:
        """Batches of this rank from there to the end of the epoch."""
        return -(-self._samples_left(start) // (self.batch_size * self.num_replicas))


def rows_of_epoch(length: int, strata: Sequence[Stratum] | None, seed: int, epoch: int) -> np.ndarray:
    """The rows of an epoch, each as often as it is seen, not shuffled.

    Args:
        length: Rows of the table.
        strata: How often rows are seen; each row once by default.
        seed: Seed of the choice of rows that are seen once more.
        epoch: Number of the epoch.
    """
    if strata is None:
        return np.arange(length)
    pieces = []
    for number, stratum in enumerate(strata):
        rows = stratum.rows
        whole, more = divmod(stratum.samples, len(rows))
        turn = np.random.default_rng([seed, number]).permutation(len(rows))
        once_more = turn[(epoch * more + np.arange(more)) % len(rows)]
        pieces += [rows] * whole + [rows[once_more]]
    return np.concatenate(pieces)


def grouped_by_length(order: np.ndarray, lengths: np.ndarray, block: int, random: np.random.Generator) -> np.ndarray:
    """Rearrange a shuffled order so that each block of it holds rows of similar length.

    Rows are sorted within windows of :data:`BLOCKS_OF_WINDOW` blocks, then the blocks are shuffled. So batches still
    differ from epoch to epoch.

    Args:
        order: (n,) rows.
        lengths: Tokens of each row of the table.
        block: Rows of a block, which is one batch of all ranks.
        random: Shuffles the blocks.
    """
    windows = np.split(order, range(block * BLOCKS_OF_WINDOW, len(order), block * BLOCKS_OF_WINDOW))
    by_length = np.concatenate([window[np.argsort(-lengths[window], kind="stable")] for window in windows])
    blocks = np.split(by_length, range(block, len(order), block))
    return np.concatenate([blocks[number] for number in random.permutation(len(blocks))])


class LazyLoader(DataLoader[Any]):
    """A DataLoader whose iterator starts its workers at the first batch, not before.

    Lightning creates the first iterator before it sets the epoch. If `configure_optimizers` asks for the length of the
    schedule, it does so even before it restores its progress. A loader with workers would fetch the wrong samples.
    """

    seconds_waited = 0.0
    """How long the process has waited for batches; a reader may reset it to 0."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        iterator, end = None, object()
        while True:
            began = time.perf_counter()
            iterator = iterator or super().__iter__()
            batch = next(iterator, end)
            self.seconds_waited += time.perf_counter() - began
            if batch is end:
                return
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Empty: Lightning's own progress holds the position. Having this method tells Lightning that it may resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing, see :meth:`state_dict`."""
