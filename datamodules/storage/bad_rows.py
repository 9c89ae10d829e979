"""Rows that cannot be used: left out, counted and named in one notice, or an error at the first one.

Some rows of a large set are broken, and a run should not end for them. But where a folder of pictures is missing or a
field has another name, all rows of a source are, and a run without them is another run: so more than a share of the
rows is an error that counts them by cause.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from datamodules.storage.fields import first_of

logger = logging.getLogger(__name__)

OnBadRow = Literal["error", "skip"]

MAX_BAD_ROWS = 0.1
"""Share of the rows that may be left out by default, far more than are broken in the released sets."""

FEWEST_BAD_ROWS = 20
"""Fewer bad rows are an error only if they are most of the rows: small sets are for trying things out."""

FEWEST_ROWS = 10
"""Of fewer rows any number may be bad, but not all of them."""

_CAUSES = 3
_PLACE = re.compile(r"^.*?:\d+(?: \([^)]*\))?: ")
_VALUE = re.compile(r"(?:, got |; ).*", re.DOTALL)
_ERRNO = re.compile(r"\[Errno \d+\] ")
_INDEX = re.compile(r"\[\d+\]")
_DETAIL = re.compile(r"((?:field|column) '[^']*')|'[^']*'|\S*/\S*|\d+")


@dataclass
class BadRows:
    """Collects what is wrong with the rows of a file while it is read.

    Attributes:
        on_bad_row: "skip" leaves bad rows out, "error" stops at the first one.
        max_bad_rows: Largest share of the rows that may be left out, see :func:`require_few_bad_rows`.
        problems: What is wrong with each row that is left out, with its place.
    """

    on_bad_row: OnBadRow = "skip"
    max_bad_rows: float = MAX_BAD_ROWS
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

    def report(self, what: str, rows: int) -> None:
        """Give one notice that counts and names the rows that are left out; nothing if there are none.

        Args:
            what: Begins the notice: a file, or a benchmark.
            rows: How many were read, these included.

        Raises:
            ValueError: If they are too many, see :func:`require_few_bad_rows`.
        """
        require_few_bad_rows(self.problems, rows, what, self.max_bad_rows)
        if self.problems:
            logger.warning(
                "%s: %d rows cannot be used and are left out: %s",
                what,
                len(self.problems),
                first_of(self.problems, "; "),
            )


def require_share(**arguments: float) -> None:
    """Refuse shares outside of [0, 1].

    Raises:
        ValueError: That names the first one.
    """
    for name, value in arguments.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


def require_few_bad_rows(problems: Sequence[str], rows: int, what: str, max_bad_rows: float) -> None:
    """Refuse to go on without many of the rows.

    Args:
        problems: What is wrong with each bad row, with its place.
        rows: How many there are, the bad ones included.
        what: Begins the message.
        max_bad_rows: Largest share of bad ones. Fewer than :data:`FEWEST_BAD_ROWS` are allowed up to half of the rows,
            and any number of fewer than :data:`FEWEST_ROWS`.

    Raises:
        ValueError: That counts the bad rows by cause and names the first one.
    """
    share = max_bad_rows if len(problems) >= FEWEST_BAD_ROWS else max(max_bad_rows, 0.5)
    if rows < FEWEST_ROWS or len(problems) <= share * rows:
        return
    raise ValueError(
        f"{what}: {len(problems)} of {rows} rows cannot be used, more than max_bad_rows={max_bad_rows:g}; correct "
        f"them, or raise it to leave so many out\n"
        f"by cause: {causes(problems)}\n"
        f"the first: {problems[0]}"
    )


def causes(problems: Iterable[str]) -> str:
    """How many rows have which cause, without places and values; the most frequent first."""
    counts = Counter(map(_cause, problems)).most_common()
    listed = [f"{count} {cause}" for cause, count in counts[:_CAUSES]]
    others = sum(count for _, count in counts[_CAUSES:])
    return "; ".join([*listed, *([f"{others} others"] if others else [])])


def _cause(problem: str) -> str:
    text = _INDEX.sub("[...]", _VALUE.sub("", _ERRNO.sub("", _PLACE.sub("", problem))))
    return " ".join(_DETAIL.sub(lambda found: found[1] or "...", text).split()).strip(" .:") or "unknown"
