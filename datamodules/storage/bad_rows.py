"""Rows that cannot be used: left out, counted and named in one notice, or an error at the first one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal

from datamodules.storage.fields import first_of

logger = logging.getLogger(__name__)

OnBadRow = Literal["error", "skip"]


@dataclass
class BadRows:
    """Collects what is wrong with the rows of a file while it is read.

    Attributes:
        on_bad_row: "skip" leaves bad rows out, "error" stops at the first one.
        problems: What is wrong with each row that is left out, with its place.
    """

    on_bad_row: OnBadRow = "skip"
    problems: list[str] = field(default_factory=list)

    def add(self, problem: ValueError) -> None:
        """Take in a row that cannot be used.

        Raises:
            ValueError: The problem itself, if ``on_bad_row`` is "error".
        """
        if self.on_bad_row == "error":
            raise problem
        self.problems.append(str(problem))

    @property
    def first(self) -> str:
        """The first problem after a colon, to end the message about a file of which no row can be used."""
        return f": {self.problems[0]}" if self.problems else ""

    def report(self, what: str) -> None:
        """Give one notice that counts and names the rows that are left out; nothing if there are none.

        Args:
            what: Begins the notice: a file, or a benchmark.
        """
        if self.problems:
            logger.warning(
                "%s: %d rows cannot be used and are left out: %s",
                what,
                len(self.problems),
                first_of(self.problems, "; "),
            )
