"""How a benchmark is read: the options of a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from datamodules.storage.bad_rows import MAX_BAD_ROWS, OnBadRow, require_share


@dataclass(frozen=True)
class BenchmarkOptions:
    """How one benchmark is read.

    Attributes:
        split: Which of its splits; the one of the paper by default.
        table: Another name of the TSV file than the usual ones.
        allow_incomplete: Leave out seeds of DynaMath and groups of We-Math that are not there as a whole, and accept a
            dataset without all of its configurations; otherwise both are errors.
        on_bad_row: Leave out rows that cannot be used, and the units that they belong to, and say how many and which;
            or raise an error at the first one.
        on_mismatch: Warn, or raise an error, when the questions are not those of the release; or say nothing, as for
            questions that are not meant to be. Reports tell it in any case.
        max_bad_rows: Largest share of rows that cannot be used and may be left out; more are an error, see
            :func:`datamodules.storage.bad_rows.require_few_bad_rows`.

    Raises:
        ValueError: If ``max_bad_rows`` is no share.
    """

    split: str | None = None
    table: str | None = None
    allow_incomplete: bool = False
    on_bad_row: OnBadRow = "skip"
    on_mismatch: Literal["warn", "error", "ignore"] = "warn"
    max_bad_rows: float = MAX_BAD_ROWS

    def __post_init__(self) -> None:
        require_share(max_bad_rows=self.max_bad_rows)
