"""Calibration: step scores as probabilities that the step is correct."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

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


def _below_one(scores: Tensor) -> Tensor:
    """Scores as float64, with 1 moved into the last bin; torchmetrics would give it a bin of its own."""
    return scores.double().clamp(max=math.nextafter(1.0, 0.0))
