"""Keeps count of the rows that batches have left out, because their pictures could not be used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from datamodules.batching.ranks import rank_of_process
from datamodules.storage.bad_rows import FEWEST_BAD_ROWS, MAX_BAD_ROWS, causes

logger = logging.getLogger(__name__)

_NAMED = 10
_DEVIATIONS = 3


class LeavesRowsOut(Protocol):
    """A batch that says which of its rows do not count, by name, and why."""

    left_out: dict[str, str]

    @property
    def sample_ids(self) -> Sequence[str]:
        """Names of all its rows."""


class LeftOutRows:
    """Names the rows of each split that batches have left out, the first ones of this process one by one.

    Pictures are decoded when a batch is made, so what is wrong with them is known only then.

    Args:
        max_bad_rows: Largest share of rows that may be left out; fewer than
            :data:`datamodules.storage.bad_rows.FEWEST_BAD_ROWS` are no error.

    Attributes:
        seen: Conversations of each split that have passed.
        problems: Sample id to problem of the rows that were left out, of each split.
    """

    def __init__(self, max_bad_rows: float = MAX_BAD_ROWS) -> None:
        self.max_bad_rows = max_bad_rows
        self.seen: Counter[str] = Counter()
        self.problems: dict[str, dict[str, str]] = {}

    def note(self, batch: LeavesRowsOut, split: str, rows: int | None = None) -> None:
        """Count the conversations of a batch, and say which were left out.

        Args:
            batch: Of the split.
            split: Names it in messages.
            rows: How many rows this process has of a split in a fixed order, where broken ones may stand together. None
                for a random order, in which the first rows tell about all: a run then ends early or not at all.

        Raises:
            ValueError: If too many are left out: of ``rows``, or by three standard deviations of those seen so far.
        """
        self.seen[split] += len(batch.sample_ids)
        known = self.problems.setdefault(split, {})
        for name, problem in batch.left_out.items():
            if name not in known:
                known[name] = problem
                self._say(split, len(known), problem)
        surely = len(known) if rows is not None else len(known) - _DEVIATIONS * len(known) ** 0.5
        of = self.seen[split] if rows is None else rows
        if len(known) >= FEWEST_BAD_ROWS and surely > self.max_bad_rows * of:
            raise ValueError(
                f"{split} rows: {len(known)} of {f'the first {of}' if rows is None else of} rows cannot be used, more "
                f"than max_bad_rows={self.max_bad_rows:g}; are all pictures there?\n"
                f"by cause: {causes(known.values())}\n"
                f"the last one: {next(reversed(known.values()))}"
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
