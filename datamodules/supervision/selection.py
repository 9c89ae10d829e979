"""Training on a part of the rows: those that teach most by their Monte Carlo scores, or random ones to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from datamodules.supervision.split import coded_column, fixed_place

SelectionRule = Literal["balanced_information", "random"]


@dataclass(frozen=True)
class RowSelection:
    """Which share of the training rows is trained on.

    Attributes:
        share: Share of the rows, in (0, 1].
        by: ``balanced_information`` takes the rows with the highest score of :func:`balanced_information`, ``random``
            as many random ones, chosen by the data module's seed.
        alpha: Of the balanced-information score: keeps rows whose steps are all right apart; at least 0.
        threshold: A step is right if its Monte Carlo score is above it; in [0, 1).
        weigh_by_counts: Whether a Monte Carlo score counts as often as its step was continued; a step whose number of
            continuations is unknown counts once.
        within_sources: Take the share of each source, so that their mixture stays. Otherwise of all rows together.

    Raises:
        ValueError: If a value is out of range.
    """

    share: float
    by: SelectionRule = "balanced_information"
    alpha: float = 0.05
    threshold: float = 0.0
    weigh_by_counts: bool = False
    within_sources: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"selection.share must be in (0, 1], got {self.share}")
        if self.by not in get_args(SelectionRule):
            raise ValueError(f"selection.by must be one of {get_args(SelectionRule)}, got {self.by!r}")
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"selection.alpha must be at least 0, got {self.alpha}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"selection.threshold must be in [0, 1), got {self.threshold}")

    @classmethod
    def of(cls, given: RowSelection | Mapping[str, Any] | None) -> RowSelection | None:
        """The selection as an object; checkpoints hold it as a mapping."""
        return cls(**given) if isinstance(given, Mapping) else given


def balanced_information(
    table: Dataset, alpha: float, threshold: float = 0.0, weigh_by_counts: bool = False
) -> NDArray[np.float64]:
    """The balanced-information score of rows (arXiv 2602.04145): (p (1 - p) + alpha) r.

    p is the share of right steps among those with a Monte Carlo score, r the mean score of the right ones: how mixed
    the labels are, and how sure it is that right steps are right. A row without a right step scores 0.

    Args:
        table: R rows as of :func:`datamodules.supervision.rows.read_rows`.
        alpha: See :class:`RowSelection`, as the next two.
        threshold: Of a right step.
        weigh_by_counts: Of the mean score.

    Returns:
        (R,) scores.
    """
    columns = table.with_format("arrow")
    lists = columns["mc"][:]
    owner = np.repeat(np.arange(len(table)), pc.list_value_length(lists).to_numpy())
    mc = pc.list_flatten(lists).to_numpy()
    counts = np.ones(len(mc))
    if weigh_by_counts:
        counts = pc.list_flatten(columns["num_mc_total"][:]).to_numpy().clip(min=1).astype(np.float64)
    is_scored, is_right = ~np.isnan(mc), mc > threshold

    def total(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(owner, values, len(table)).astype(np.float64)

    share = total(is_right.astype(float)) / total(is_scored.astype(float)).clip(min=1)
    weights = counts * is_right
    mean = total(weights * np.nan_to_num(mc)) / total(weights).clip(min=np.finfo(float).tiny)
    return (share * (1 - share) + alpha) * mean


def select_rows(table: Dataset, selection: RowSelection, seed: int) -> Dataset:
    """The chosen rows in the order of the table: at least one of each source, or of all.

    Args:
        table: Rows as of :func:`datamodules.supervision.rows.read_rows`.
        selection: How to choose. Rows of equal score are taken in a random but fixed order.
        seed: Of that order, and of random rows.
    """
    ids = table.with_format("arrow")["sample_id"][:].to_pylist()
    places = np.empty(len(table), np.int64)
    places[sorted(range(len(table)), key=lambda row: fixed_place(seed, ids[row]))] = np.arange(len(table))
    scores = np.zeros(len(table))
    if selection.by == "balanced_information":
        scores = balanced_information(table, selection.alpha, selection.threshold, selection.weigh_by_counts)
    groups = coded_column(table, "source")[0] if selection.within_sources else np.zeros(len(table), np.int64)
    kept = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        best = np.lexsort((places[rows], -scores[rows]))
        kept.append(rows[best[: max(1, round(selection.share * len(rows)))]])
    return table.select(np.sort(np.concatenate(kept)))
