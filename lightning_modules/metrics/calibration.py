"""Calibration: step scores as probabilities that the step is correct."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import binary_calibration_error

from lightning_modules.metrics.table import Cell, Table

NUM_BINS = 15
"""Bins of equal width over [0, 1], as in Guo et al. 2017 (arXiv 1706.04599); the last one holds the score 1, too."""


@dataclass(frozen=True)
class CalibrationBin:
    """Steps with scores in one interval.

    Attributes:
        low: Least score, included.
        high: Greatest score, not included (in the last bin: 1, included).
        steps: Number of steps.
        mean_score: None for an empty bin.
        correct_share: Share of steps that are correct; None for an empty bin.
    """

    low: float
    high: float
    steps: int
    mean_score: float | None
    correct_share: float | None


def expected_calibration_error(scores: Tensor, is_correct: Tensor) -> float:
    """Mean distance between score and share of correct steps over :data:`NUM_BINS` bins, weighted by steps.

    Args:
        scores: (n,) step scores in [0, 1], n > 0.
        is_correct: (n,) bool labels.
    """
    return float(binary_calibration_error(_below_one(scores), is_correct.long(), n_bins=NUM_BINS, norm="l1"))


def calibration_bins(scores: Tensor, is_correct: Tensor) -> list[CalibrationBin]:
    """The :data:`NUM_BINS` bins of a reliability diagram, in order, for such scores and labels."""
    bounds = torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64)
    places = torch.bucketize(_below_one(scores), bounds, right=True) - 1
    steps = torch.bincount(places, minlength=NUM_BINS).tolist()
    totals = torch.bincount(places, scores.double(), NUM_BINS).tolist()
    correct = torch.bincount(places, is_correct.double(), NUM_BINS).tolist()
    return [
        CalibrationBin(low, high, n, total / n if n else None, right / n if n else None)
        for low, high, n, total, right in zip(
            bounds[:-1].tolist(), bounds[1:].tolist(), steps, totals, correct, strict=True
        )
    ]


@dataclass(frozen=True)
class CalibrationReport:
    """How calibrated scores are before a calibration and after it.

    Attributes:
        steps: Number of steps.
        ece: Expected calibration error, see :func:`expected_calibration_error`.
        brier: Brier score: mean squared distance of score and label.
        ece_after: With calibrated scores; None if there are none.
        brier_after: Likewise.
    """

    steps: int
    ece: float
    brier: float
    ece_after: float | None = None
    brier_after: float | None = None

    def metrics(self) -> dict[str, float]:
        """The values by name, without those that are missing."""
        values = {
            "ece_before": self.ece,
            "ece_after": self.ece_after,
            "brier_before": self.brier,
            "brier_after": self.brier_after,
        }
        return {name: value for name, value in values.items() if value is not None}


def calibration_report(scores: Tensor, is_correct: Tensor, after: Tensor | None = None) -> CalibrationReport:
    """Calibration of (n,) scores in [0, 1], and of the (n,) ``after`` a calibration, against (n,) bool labels."""
    found = []
    for values in (scores, after):
        if values is not None:
            brier = float(mean_squared_error(values.double(), is_correct.double()))
            found += [expected_calibration_error(values, is_correct), brier]
    return CalibrationReport(len(scores), *found)


def calibration_table(reports: Mapping[str, CalibrationReport], calibration: Any) -> Table:
    """The table of some splits in percent.

    Args:
        reports: By name of the split.
        calibration: A :class:`lightning_modules.scoring.calibration.Calibration`, or None.
    """
    header = ["Split", "ECE before", "ECE after", "Brier before", "Brier after", "Steps"]
    rows = [
        [
            Cell(name),
            *(
                Cell("-" if value is None else f"{100 * value:.2f}")
                for value in (report.ece, report.ece_after, report.brier, report.brier_after)
            ),
            Cell(str(report.steps)),
        ]
        for name, report in reports.items()
    ]
    if calibration is None:
        note = "The model has no calibration."
    else:
        details = f" {calibration.temperature:.4g}" if calibration.method == "temperature" else ""
        note = f"Calibration: {calibration.method}{details}, fitted on {calibration.fitted_on}."
    note += (
        " ECE: expected calibration error over 15 bins of equal width. Brier: mean squared error of scores. "
        "Where the calibration was fitted in this run, its own split is calibrated in five folds."
    )
    return Table("Calibration of step scores (%)", header, rows, note)


def _below_one(scores: Tensor) -> Tensor:
    """Scores as float64, with 1 moved into the last bin; torchmetrics would give it a bin of its own."""
    return scores.double().clamp(max=math.nextafter(1.0, 0.0))
