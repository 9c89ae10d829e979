"""Rows of all ranks together, and means over them that do not depend on how they were dealt out."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed
from torch import Tensor

from datamodules.storage.fields import first_of
from lightning_modules.training.non_finite import NonFiniteError

Row = TypeVar("Row")


def gather_rows(rows: Sequence[Row], key: Callable[[Row], Hashable]) -> list[Row]:
    """Rows of all ranks, rank by rank, each key once.

    Samplers repeat samples so that all ranks get equally many; of such copies the first is kept. Every rank must call
    this, and every rank gets the same list.

    Args:
        rows: Of this rank; must be picklable.
        key: What identifies a row.
    """
    parts: list[Sequence[Row]] = [rows]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, list(rows))
        parts = gathered
    by_key: dict[Hashable, Row] = {}
    for part in parts:
        for row in part:
            by_key.setdefault(key(row), row)
    return list(by_key.values())


@dataclass(frozen=True)
class _Sums:
    sample_id: str
    weight: float
    totals: dict[str, float]


class SampleMeans:
    """Weighted means over the samples of all ranks, each sample once, the same to the last bit for any ranks."""

    def __init__(self) -> None:
        self._rows: list[_Sums] = []

    def update(self, sample_ids: Sequence[str], weight: Tensor, **totals: Tensor) -> None:
        """Take the samples of a batch.

        Args:
            sample_ids: B names, unique in the dataset.
            weight: (B,) what their sums are divided by, such as numbers of labels.
            **totals: By name, (B,) sums.
        """
        values = {name: total.tolist() for name, total in totals.items()}
        self._rows += [
            _Sums(sample_id, share, {name: value[row] for name, value in values.items()})
            for row, (sample_id, share) in enumerate(zip(sample_ids, weight.tolist(), strict=True))
        ]

    def compute(self) -> dict[str, float]:
        """The means by name, of nothing before the first update; all ranks must call it together, and it forgets.

        Raises:
            NonFiniteError: If a sum of a sample is NaN or infinite; names the samples, on all ranks.
        """
        rows = gather_rows(self._rows, key=lambda row: row.sample_id)
        self._rows = []
        if bad := {row.sample_id: sum(row.totals.values()) for row in rows if not _is_finite(row)}:
            raise NonFiniteError(
                f"the loss of {len(bad)} of {len(rows)} samples of this evaluation is not finite: "
                f"{first_of(sorted(bad))}; look at these samples, and at the weights: is a step before it to blame?",
                bad,
            )
        # Exact sums have no order.
        weight = math.fsum(row.weight for row in rows) or 1.0
        return {name: math.fsum(row.totals[name] for row in rows) / weight for name in (rows[0].totals if rows else ())}


def _is_finite(row: _Sums) -> bool:
    return all(map(math.isfinite, row.totals.values()))
