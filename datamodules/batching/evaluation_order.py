"""The order of evaluation: the same batches for any number of ranks, and equally many for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler


class EvaluationSampler(DistributedSampler[Any]):
    """Indices of this rank, in whole batches of a single process.

    Batch b of a single process goes to rank ``b % num_replicas``. The last digits of scores depend on what shares a
    batch, so tables of any number of ranks agree exactly only if the batches do. Ranks with one batch fewer repeat one
    of the first batches, so that all ranks run the same number of forwards; metrics drop the copies by sample id.

    It is a `DistributedSampler`, so that Lightning keeps it instead of its own, which gives samples to ranks one by
    one.

    Args:
        dataset: Anything with a length.
        batch_size: Of the dataloader.
        num_replicas: Number of ranks.
        rank: This rank.
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


def evaluation_loader(
    dataset: Dataset[Any],
    batch_size: int,
    collator: Callable[[list[Any]], Any],
    num_workers: int,
    trainer: Trainer | None,
) -> DataLoader[Any]:
    """The DataLoader of evaluation or prediction: every item once, in the order of :func:`evaluation_sampler`.

    Args:
        dataset: With a length.
        batch_size: Items a batch on one rank.
        collator: Turns a list of items into a batch.
        num_workers: DataLoader workers.
        trainer: Says which rank this is; a single process without one.
    """
    # By keyword: Lightning builds the loader of `predict` anew, and names the size of a batch then.
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=evaluation_sampler(dataset, batch_size, trainer),  # type: ignore[arg-type]
        collate_fn=collator,
        num_workers=num_workers,
    )
