"""Aggregate the step scores of a response to one response score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

Aggregation = Literal["mean", "min", "max", "last", "product"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


def aggregations_for(score_range: tuple[float, float]) -> tuple[Aggregation, ...]:
    """The aggregations that have a meaning for scores in a range (least, greatest)."""
    return AGGREGATIONS if score_range[0] >= 0 else tuple(how for how in AGGREGATIONS if how != "product")


def aggregate_step_scores(step_scores: Sequence[float] | Tensor, how: Aggregation) -> float:
    """Reduce step scores to a response score.

    The released VisualPRM uses ``mean``. Except for ``last``, the result does not depend on the order of the scores,
    not even in the last bit, so responses with the same scores in another order tie. ``product`` needs scores that are
    not negative: two negative factors would make a bad response look good.

    Args:
        step_scores: (S,) step scores in order, S >= 1.
        how: ``mean``, ``min``, ``max``, ``last`` or ``product``.

    Returns:
        The response score.

    Raises:
        ValueError: If there is no step, ``how`` is unknown, or a score is NaN, infinite, or for ``product`` negative.
    """
    scores = step_scores.tolist() if isinstance(step_scores, Tensor) else [float(score) for score in step_scores]
    if not scores:
        raise ValueError("a response without steps has no score")
    for index, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(f"step {index} has the score {score}; all step scores must be finite, got {scores}")
    match how:
        case "mean":
            return math.fsum(scores) / len(scores)
        case "min":
            return min(scores)
        case "max":
            return max(scores)
        case "last":
            return scores[-1]
        case "product":
            if min(scores) < 0:
                raise ValueError(f"the product of scores needs scores that are not negative, got {scores}")
            return math.prod(sorted(scores))
    raise ValueError(f"unknown aggregation {how!r}; choose from {', '.join(AGGREGATIONS)}")
