"""Rows of all ranks together, and means over them that do not depend on which rank had which row."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor

from datamodules.batching.ranks import of_all_ranks
from datamodules.storage.fields import first_of
from lightning_modules.training.non_finite import NonFiniteError

Row = TypeVar("Row")


def gather_rows(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> list[Row]:
    """Rows of all ranks in the order of the ranks, each key once; all ranks must call it and get the same list.

    Samplers repeat samples so that all ranks have equally many. The first of such copies is kept.

    Args:
        rows: Of this rank; must be picklable.
        key: Identifies a row.
    """
    by_key: dict[Hashable, Row] = {}
    for part in of_all_ranks(list(rows)):
        for row in part:
            by_key.setdefault(key(row), row)
    return list(by_key.values())


class _Sums(NamedTuple):
    sample_id: str
    weight: float
    totals: dict[str, float]


class SampleMeans:
    """Weighted means over the samples of all ranks, each sample once; equal to the last bit for any number of ranks."""

    def __init__(self) -> None:
        self._rows: list[_Sums] = []

    def update(self, sample_ids: Sequence[str], weight: Tensor, **totals: Tensor) -> None:
        """Add the samples of a batch.

        Args:
            sample_ids: B names, unique in the dataset.
            weight: (B,) weights that the sums are divided by, such as numbers of labels.
            **totals: (B,) sums by name.
        """
        values = {name: total.tolist() for name, total in totals.items()}
        self._rows += [
            _Sums(sample_id, share, {name: value[row] for name, value in values.items()})
            for row, (sample_id, share) in enumerate(zip(sample_ids, weight.tolist(), strict=True))
        ]

    def compute(self) -> dict[str, float]:
        """Means by name, then reset; empty if there was no update. All ranks must call it together.

        Raises:
            NonFiniteError: On all ranks, if a sum of a sample is NaN or infinite; names the samples.
        """
        rows = gather_rows(self._rows, key=lambda row: row.sample_id)
        self._rows = []
        losses = {row.sample_id: sum(row.totals.values()) for row in rows}
        if bad := {sample_id: loss for sample_id, loss in losses.items() if not math.isfinite(loss)}:
            raise NonFiniteError(
                f"the loss of {len(bad)} of {len(rows)} samples of this evaluation is not finite: "
                f"{first_of(sorted(bad))}; look at these samples, and at the weights: is a step before it to blame?",
                bad,
            )
        # `fsum` is exact, so its result does not depend on the order.
        weight = math.fsum(row.weight for row in rows) or 1.0
        return {name: math.fsum(row.totals[name] for row in rows) / weight for name in (rows[0].totals if rows else ())}
