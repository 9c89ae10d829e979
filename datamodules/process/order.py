"""The order of training samples: shuffled by (seed, epoch), split over ranks, exact when a run resumes mid-epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from datamodules.process.split import Stratum


class TrainingSampler(DistributedSampler[Any]):
    """Indices of this rank for the current epoch, from the batch at which the epoch stands.

    The order depends on seed and epoch alone; batch number b of all ranks together is the b-th block of it. Only whole
    batches are served when there is at least one. A row of weight 2.5 is seen twice or three times an epoch; which rows
    are seen once more goes round, so that over the epochs all rows of a source are seen equally often. (Being a
    `DistributedSampler`, it is left in place by Lightning.)

    Args:
        dataset: Anything with a length.
        batch_size: Of one rank.
        seed: Of the order.
        batches_done: How many batches of the epoch are done; asked when iteration begins.
        num_replicas: Number of ranks.
        rank: Of this process.
        strata: How often rows are seen; each once by default.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int = 0,
        batches_done: Callable[[], int] = lambda: 0,
        num_replicas: int = 1,
        rank: int = 0,
        strata: Sequence[Stratum] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.batches_done = batches_done
        self.strata = strata
        self.length = len(dataset) if strata is None else sum(stratum.samples for stratum in strata)
        whole = self.length // (batch_size * num_replicas) * batch_size
        # A dataset smaller than one batch is one batch of what there is.
        self.num_samples = whole or self.length // num_replicas
        if not self.num_samples:
            raise ValueError(f"{self.length} training samples are too few for {num_replicas} ranks")

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        if self.strata is not None:
            order = self._repeated(self.strata)[order]
        mine = order[: self.num_samples * self.num_replicas][self.rank :: self.num_replicas]
        yield from mine[self.batches_done() * self.batch_size :].tolist()

    def _repeated(self, strata: Sequence[Stratum]) -> np.ndarray:
        """(length,) the rows of the epoch, each as often as it is seen."""
        pieces = []
        for number, stratum in enumerate(strata):
            rows = stratum.rows
            whole, more = divmod(stratum.samples, len(rows))
            turn = np.random.default_rng([self.seed, number]).permutation(len(rows))
            once_more = turn[(self.epoch * more + np.arange(more)) % len(rows)]
            pieces += [rows] * whole + [rows[once_more]]
        return np.concatenate(pieces)

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch."""
        return self.num_samples


class LazyLoader(DataLoader[Any]):
    """A dataloader whose iterator begins its work at the first batch, not before.

    Lightning makes the first iterator before it has set the epoch and, when the length of the schedule is asked for in
    `configure_optimizers`, before it has restored its progress; a loader with workers would fetch the wrong samples.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the place in the epoch is Lightning's own progress. Tells Lightning that resuming is in hand."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
