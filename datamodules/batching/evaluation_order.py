"""The order of evaluation: the same batches for any number of ranks, and equally many on each rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from itertools import chain
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from datamodules.batching.ranks import ranks_of


class EvaluationSampler(DistributedSampler[Any]):
    """Indices of this rank, in the batches that a single process would have; from first to last in a single process.

    Batch b goes to rank ``b % num_replicas``. The last digits of scores depend on what shares a batch, so tables agree
    exactly for any number of ranks only if the batches are the same. A rank with one batch fewer repeats one of the
    first batches, so that all ranks run the same number of forwards. Metrics drop the copies by sample id.

    It is a `DistributedSampler`, so that Lightning does not replace it by its own, which distributes single samples.

    Args:
        dataset: Anything with a length.
        batch_size: Of the DataLoader.
        num_replicas: Number of ranks.
        rank: This rank.
    """

    def __init__(self, dataset: Sized, batch_size: int, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        length = len(dataset)
        batches = [range(begin, min(begin + batch_size, length)) for begin in range(0, length, batch_size)]
        rounds = -(-len(batches) // num_replicas)
        # The last batch, and a copy of it, may be short. It is the last batch of its rank.
        self.batches = [batches[n % len(batches)] for n in range(rank, rounds * num_replicas, num_replicas)]
        self.num_samples = sum(map(len, self.batches))

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self.batches)


def evaluation_loader(
    dataset: Dataset[Any],
    batch_size: int,
    collator: Callable[[list[Any]], Any],
    num_workers: int,
    trainer: Trainer | None,
) -> DataLoader[Any]:
    """The DataLoader of evaluation or prediction: every item once, in the order of :class:`EvaluationSampler`.

    Args:
        dataset: With a length.
        batch_size: Items of a batch on one rank.
        collator: Turns a list of items into a batch.
        num_workers: DataLoader workers.
        trainer: Knows the rank of this process; None stands for a single process.
    """
    sampler = EvaluationSampler(dataset, batch_size, *ranks_of(trainer))  # type: ignore[arg-type]
    # By keyword: Lightning builds the loader of `predict` again and passes the batch size by name.
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=collator, num_workers=num_workers)
