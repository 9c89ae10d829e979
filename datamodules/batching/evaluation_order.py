"""The order of evaluation: the same batches for any number of ranks, and equally many for each."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler


class EvaluationSampler(DistributedSampler[Any]):
    """Indices of this rank, whole batches of a single process one after another.

    Batch number b of a single process is one of rank ``b % num_replicas``. Scores depend in their last digits on what
    shares a batch, so tables of any number of ranks agree exactly only if batches do. Ranks that have one batch fewer
    repeat one of the first ones, so that all run the same number of forwards; who sums up drops the copies by their id.
    (Being a `DistributedSampler`, it is left in place by Lightning, whose own deals out samples one by one.)

    Args:
        dataset: Anything with a length.
        batch_size: Of the dataloader.
        num_replicas: Number of ranks.
        rank: Of this process.
    """

    def __init__(self, dataset: Sized, batch_size: int, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self.length = len(dataset)
        self.batch_size = batch_size
        batches = -(-self.length // batch_size)
        rounds = -(-batches // num_replicas)
        # The last batch may be short, and a copy too; each is the last one of its rank.
        self.batches = [number % batches for number in range(rank, rounds * num_replicas, num_replicas)]
        self.num_samples = sum(len(self._rows(number)) for number in self.batches)

    def _rows(self, batch: int) -> range:
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, self.length))

    def __iter__(self) -> Iterator[int]:
        for number in self.batches:
            yield from self._rows(number)

    def __len__(self) -> int:
        """Samples of this rank, copies included."""
        return self.num_samples


def evaluation_sampler(dataset: Sized, batch_size: int, trainer: Trainer | None) -> Sampler[Any]:
    """The order of evaluation or prediction for this process of a run; from first to last in a single one."""
    if trainer is None or trainer.world_size == 1:
        return SequentialSampler(dataset)
    return EvaluationSampler(dataset, batch_size, trainer.world_size, trainer.global_rank)
