"""Shares of a list of prompts for runs that know nothing of each other, such as the tasks of a SLURM array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of several shares that together hold every item once.

    Attributes:
        index: From 0.
        count: Number of shares.
    """

    index: int = 0
    count: int = 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every ``count``-th item: sources that follow each other are spread over all shares."""
        return list(items[self.index :: self.count])

    @property
    def label(self) -> str:
        """For file names: nothing where there is one share."""
        return f"{self.index:05d}-of-{self.count:05d}-" if self.count > 1 else ""
