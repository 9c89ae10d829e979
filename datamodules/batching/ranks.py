"""Agreement of the processes of a distributed run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch.distributed
from lightning.fabric.utilities.rank_zero import rank_zero_only


def rank_of_process() -> int:
    """Number of this process among those of the run: what Lightning knows, else the environment; 0 where it is alone.

    Unlike `torch.distributed` it knows before processes have found each other.
    """
    return int(rank_zero_only.rank)  # type: ignore[attr-defined]


def digest_of(texts: Iterable[str]) -> str:
    """A digest of some texts in their order, for :func:`same_on_all_ranks`."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def same_on_all_ranks(value: str, what: str) -> None:
    """Raise an error on every rank if ranks hold different values; nothing to do in a single process.

    Ranks on machines with different copies of the data would otherwise train on different rows, or wait for each other
    for ever.

    Args:
        value: Of this rank.
        what: Names it in the error.

    Raises:
        RuntimeError: If the values differ; says which ranks agree.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    values: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    if len(set(values)) > 1:
        ranks = {each: [rank for rank, other in enumerate(values) if other == each] for each in dict.fromkeys(values)}
        raise RuntimeError(
            f"the {what} differ between ranks: {ranks} (digest: ranks); do all machines have the same annotations, "
            f"images and settings?"
        )
