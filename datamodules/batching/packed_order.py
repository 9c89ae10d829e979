"""Which conversations share a packed batch: planned before an epoch, from their lengths alone.

Every epoch has the same number of batches, so that schedules, ranks and a resumed run can rely on it. For this purpose
the batches are laid out once, as a plan of places. The lengths of an epoch are put into as few batches as can hold
them, the longest first, each into the batch with the fewest tokens so far (the greedy rule of Graham 1969 for equal
loads). In each epoch the i-th longest conversation gets the i-th largest place. Conversations of one length class are
in random order. So every conversation fits, and the micro-batches of one step have nearly equally many tokens on all
ranks.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data.distributed import DistributedSampler

from datamodules.batching.order import rows_of_epoch
from datamodules.batching.position import EpochStart
from datamodules.supervision.split import Stratum

_LENGTH_CLASSES = 256


class PackedSampler(DistributedSampler[Any]):
    """Packed batches of this rank for the current epoch, as lists of rows, from where the epoch starts or resumes.

    Batches depend on seed and epoch only. Step b of all ranks together is the b-th block of batches. An epoch has every
    row as often as its weight says, see :class:`datamodules.batching.order.TrainingSampler`. If most batches hold one
    row, ranks may not be able to have equally many. Then fewer rows than there are ranks are left out, other ones each
    epoch.

    It is a `DistributedSampler`, so that Lightning does not replace it.

    Args:
        lengths: (n,) tokens of each row of the table.
        max_tokens: Most tokens of a batch; no row has more.
        seed: Seed of the order.
        start: Maps an epoch to where its iteration starts; called when the iteration starts.
        num_replicas: Number of ranks.
        rank: Rank of this process.
        strata: How often rows are seen; each row once by default.

    Raises:
        ValueError: If there are fewer samples than ranks.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        max_tokens: int,
        seed: int = 0,
        start: Callable[[int], EpochStart] = lambda epoch: EpochStart(),
        num_replicas: int = 1,
        rank: int = 0,
        strata: Sequence[Stratum] | None = None,
    ) -> None:
        super().__init__(lengths, num_replicas, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        unit = max(1, max_tokens // _LENGTH_CLASSES)
        capacity = max_tokens // unit
        # A row that is rounded up beyond the capacity fills a batch alone.
        self.classes = np.minimum(-(-lengths // unit), capacity)
        self.start = start
        self.strata = strata
        self.capacity = capacity
        self.batch_of_place = self._places(num_replicas)
        self.num_samples = int(self.batch_of_place.max()) + 1

    def _places(self, ranks: int) -> np.ndarray:
        return _lay_out(_largest_classes(self.classes, self.strata), self.capacity, ranks)

    def batches(self, made_for: int | None = None) -> list[np.ndarray]:
        """All batches of the epoch, of all ranks, in order, as they are laid out for ``made_for`` ranks."""
        places = self.batch_of_place if made_for in (None, self.num_replicas) else self._places(made_for or 1)
        random = np.random.default_rng([self.seed, self.epoch])
        rows = random.permutation(rows_of_epoch(len(self.classes), self.strata, self.seed, self.epoch))
        rows = rows[: len(places)]
        longest_first = rows[np.argsort(-self.classes[rows], kind="stable")]
        by_batch = longest_first[np.argsort(places, kind="stable")]
        ends = np.bincount(places).cumsum()[:-1]
        found = np.split(by_batch, ends)
        return [found[number] for number in random.permutation(len(found))]

    def _left(self, start: EpochStart) -> list[np.ndarray]:
        """Batches of all ranks from there to the end of the epoch; their number is a multiple of the ranks."""
        return _evened(self.batches(start.made_for)[start.done :], self.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        yield from (batch.tolist() for batch in self._left(self.start(self.epoch))[self.rank :: self.num_replicas])

    def batches_left(self, start: EpochStart) -> int:
        """Batches of this rank from there to the end of the epoch."""
        return len(self._left(start)) // self.num_replicas

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        return self.num_samples // self.num_replicas


def _evened(batches: list[np.ndarray], ranks: int) -> list[np.ndarray]:
    """The batches, some of them split in two, so that their number is a multiple of the ranks.

    If all batches hold one row, those at the end that are too many are left out.
    """
    evened = list(batches)
    while len(evened) % ranks:
        largest = max(range(len(evened)), key=lambda number: len(evened[number]))
        if len(evened[largest]) < 2:
            return evened[: len(evened) // ranks * ranks]
        evened[largest : largest + 1] = np.array_split(evened[largest], 2)
    return evened


def _largest_classes(classes: np.ndarray, strata: Sequence[Stratum] | None) -> np.ndarray:
    """Length classes in descending order; the i-th is at least as long as the i-th longest row of any epoch."""
    if strata is not None:
        pieces = []
        for stratum in strata:
            descending = np.sort(classes[stratum.rows])[::-1]
            whole, more = divmod(stratum.samples, len(descending))
            pieces += [descending] * whole + [descending[:more]]
        classes = np.concatenate(pieces)
    return np.sort(classes)[::-1]


def _lay_out(classes: np.ndarray, capacity: int, ranks: int) -> np.ndarray:
    """The batch of each place, with as few batches as can hold all places; their number is a multiple of the ranks.

    Raises:
        ValueError: If there are fewer places than ranks.
    """
    most = len(classes) // ranks * ranks
    if not most:
        raise ValueError(f"{len(classes)} training samples are too few for {ranks} ranks")
    batches = -(-int(classes.sum()) // (capacity * ranks)) * ranks
    while True:
        batches = min(batches, most)
        if (laid := _spread_over(classes, capacity, batches)) is not None:
            return laid
        if batches == most:
            return np.arange(most)
        batches += max(1, batches // (200 * ranks)) * ranks


def _spread_over(classes: np.ndarray, capacity: int, batches: int) -> np.ndarray | None:
    """The batch of each place; None if the places do not fit into so many batches."""
    loads = [(0, number) for number in range(batches)]
    laid = np.empty(len(classes), np.int64)
    for place, size in enumerate(classes.tolist()):
        load, number = loads[0]
        if load + size > capacity:
            return None
        laid[place] = number
        heapq.heapreplace(loads, (load + size, number))
    return laid
