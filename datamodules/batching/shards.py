"""Shards of a list of prompts for runs that do not communicate, such as the tasks of a SLURM array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of several shards that together hold every item once.

    Attributes:
        index: From 0.
        count: Number of shards.
    """

    index: int = 0
    count: int = 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every ``count``-th item, so that each source, whose items are consecutive, is spread over all shards."""
        return list(items[self.index :: self.count])

    @property
    def label(self) -> str:
        """Prefix of file names; empty if there is one shard."""
        return f"{self.index:05d}-of-{self.count:05d}-" if self.count > 1 else ""
