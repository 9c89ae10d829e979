"""Keeps count of the rows that batches have left out, because their pictures could not be used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from datamodules.batching.ranks import rank_of_process

logger = logging.getLogger(__name__)

_NAMED = 10
_FEWEST = 20


class LeavesRowsOut(Protocol):
    """A batch that says which of its rows do not count, by name, and why."""

    left_out: dict[str, str]

    @property
    def sample_ids(self) -> Sequence[str]:
        """Names of all its rows."""


class LeftOutRows:
    """Names the rows of each split that batches have left out, the first ones of this process one by one.

    Pictures are decoded when a batch is made, so what is wrong with them is known only then.

    Attributes:
        seen: Conversations of each split that have passed.
        problems: Sample id to problem of the rows that were left out, of each split.
    """

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.problems: dict[str, dict[str, str]] = {}

    def note(self, batch: LeavesRowsOut, split: str) -> None:
        """Count the conversations of a batch, and say which were left out.

        Args:
            batch: Of the split.
            split: Names it in messages.

        Raises:
            ValueError: If more rows are left out than used: then it is not the rows that are wrong.
        """
        self.seen[split] += len(batch.sample_ids)
        known = self.problems.setdefault(split, {})
        for name, problem in batch.left_out.items():
            if name not in known:
                known[name] = problem
                self._say(split, len(known), problem)
        if len(known) >= _FEWEST and 2 * len(known) > self.seen[split]:
            raise ValueError(
                f"{split} rows: {len(known)} of the first {self.seen[split]} rows cannot be used; are all pictures "
                f"there? The last one: {next(reversed(known.values()))}"
            )

    def _say(self, split: str, count: int, problem: str) -> None:
        if count > _NAMED and count & (count - 1):
            return  # then only every time that their number has doubled
        # An error, since of other ranks than the first nothing less is shown.
        logger.error(
            "%s rows: %d left out so far by rank %d, the picture cannot be used: %s",
            split,
            count,
            rank_of_process(),
            problem,
        )
