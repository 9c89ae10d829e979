"""The step threshold: where it comes from, and how it is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor

Source = Literal["fixed", "validation", "oracle"]


PROBABILITY = (0.0, 1.0)
"""Least and greatest score of a step, unless the model's class tokens are worth something else."""


class OneLabelError(ValueError):
    """No threshold can be chosen, because all steps have the same label."""


@dataclass(frozen=True)
class StepThreshold:
    """A threshold and its origin.

    Attributes:
        value: A step whose score reaches it counts as judged correct; in [-1, 1].
        source: ``fixed``: given by the user. ``validation``: chosen on other data than the benchmark. ``oracle``:
            chosen on the benchmark itself, an upper bound and no fair result.
        chosen_on: Name of the data that it was chosen on; empty for a fixed one.
    """

    value: float
    source: Source = "fixed"
    chosen_on: str = ""

    def __post_init__(self) -> None:
        if not -1 <= self.value <= 1:
            raise ValueError(f"threshold must be in [-1, 1], got {self.value}")
        if self.source not in get_args(Source):
            raise ValueError(f"source of a threshold must be one of {get_args(Source)}, got {self.source!r}")

    @property
    def label(self) -> str:
        """Its name in reports, e.g. ``oracle threshold 0.43, chosen on the benchmark itself``."""
        if self.source == "fixed":
            return f"fixed threshold {self.value:g}"
        return f"{self.source} threshold {self.value:.4g}, chosen on {self.chosen_on}"


def middle(score_range: tuple[float, float]) -> float:
    """The middle of the score range: 0.5 for [0, 1], 0 for [-1, 1]."""
    return sum(score_range) / 2


def best_threshold(
    scores: Tensor, is_correct: Tensor, score_range: tuple[float, float] = PROBABILITY
) -> tuple[float, float]:
    """The threshold with the best macro F1 on some steps.

    All splits of the scores are tried; a threshold is halfway between the scores that it separates, or between a score
    and an end of the range. In a tie the threshold nearest to the middle of the range wins, then the lower one. So the
    result does not depend on the order of the steps.

    Args:
        scores: (n,) step scores.
        is_correct: (n,) bool labels.
        score_range: Least and greatest score.

    Returns:
        The threshold, and its macro F1 on these steps.

    Raises:
        OneLabelError: If all steps have one label, or there are none.
        ValueError: If a score is not in the range.
    """
    values, labels = scores.double().cpu().numpy(), is_correct.cpu().numpy().astype(bool)
    low, high = score_range
    if not ((values >= low) & (values <= high)).all():
        raise ValueError(f"step scores must be in [{low:g}, {high:g}]; at least one is not, or is NaN")
    if labels.all() or not labels.any():
        found = f"all {labels.size} are {'correct' if labels.all() else 'wrong'}" if labels.size else "there are none"
        raise OneLabelError(f"a threshold needs correct and wrong steps to be chosen on; {found}")
    distinct, places = np.unique(values, return_inverse=True)
    # After k of the distinct scores: the steps that a threshold above them judges wrong.
    missed = np.concatenate([[0], np.bincount(places, labels, len(distinct)).cumsum()])
    caught = np.concatenate([[0], np.bincount(places, ~labels, len(distinct)).cumsum()])
    found, passed = labels.sum() - missed, (~labels).sum() - caught
    macro_f1 = (2 * found / (2 * found + missed + passed) + 2 * caught / (2 * caught + missed + passed)) / 2
    bounds = np.concatenate([[low], distinct, [high]])
    thresholds = (bounds[:-1] + bounds[1:]) / 2
    # Halfway between neighbouring floating-point numbers is one of them; the upper one parts them.
    thresholds[1:] = np.where(thresholds[1:] > bounds[1:-1], thresholds[1:], bounds[2:])
    if distinct[-1] == high:
        macro_f1, thresholds = macro_f1[:-1], thresholds[:-1]  # nothing in the range is above its end
    best = np.flatnonzero(macro_f1 == macro_f1.max())
    chosen = best[np.lexsort((thresholds[best], abs(thresholds[best] - middle(score_range))))[0]]
    return float(thresholds[chosen]), float(macro_f1[chosen])
