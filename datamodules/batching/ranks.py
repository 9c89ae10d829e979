"""What the ranks of a distributed run know of each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeVar

import torch.distributed
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer

Value = TypeVar("Value")


def rank_of_process() -> int:
    """Global rank of this process: from Lightning, else from the environment; 0 for a single process.

    It is known before the process group is initialized.
    """
    return int(rank_zero_only.rank)  # type: ignore[attr-defined]


def ranks_of(trainer: Trainer | None) -> tuple[int, int]:
    """Number of ranks of a run and the rank of this process; (1, 0) without a trainer."""
    return (trainer.world_size, trainer.global_rank) if trainer else (1, 0)


def of_all_ranks(value: Value) -> list[Value]:
    """The values of all ranks, in the order of the ranks; the given one alone in a single process.

    All ranks must call it together.

    Args:
        value: Of this rank; must be picklable.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def digest_of(texts: Iterable[str]) -> str:
    """A digest of some texts in their order, for :func:`same_on_all_ranks`."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def same_on_all_ranks(value: str, what: str) -> None:
    """Raise an error on every rank if ranks hold different values; all ranks must call it together.

    Otherwise machines with different copies of the data would train on different rows, or wait for each other forever.

    Args:
        value: Of this rank.
        what: Name of the values in the error.

    Raises:
        RuntimeError: If the values differ; says which ranks agree.
    """
    values = of_all_ranks(value)
    if len(set(values)) > 1:
        ranks = {each: [rank for rank, other in enumerate(values) if other == each] for each in dict.fromkeys(values)}
        raise RuntimeError(
            f"the {what} differ between ranks: {ranks} (digest: ranks); do all machines have the same annotations, "
            f"images and settings?"
        )
