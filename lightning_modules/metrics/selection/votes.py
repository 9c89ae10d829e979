"""Votes over final answers, with and without weights.

Q questions, n candidates each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.bootstrap import Array


def majority_index(answer_classes: Sequence[int]) -> int:
    """The first candidate with the most frequent answer.

    Candidates without an answer (-1) have no vote. In a tie the answer given first wins. If no candidate has an answer,
    the first candidate is taken.
    """
    classes = np.array([answer_classes], dtype=np.int64)
    return int(vote_picks(classes, np.ones(classes.shape))[0])


def vote_picks(
    answer_classes: NDArray[np.int64], weights: Array, best_of_class: Array | None = None
) -> NDArray[np.int64]:
    """The candidate that a weighted vote chooses: (Q,) indices.

    The answer whose candidates have the largest sum of weights wins; in a tie the one given first. Candidates without
    an answer (-1) have no vote.

    Args:
        answer_classes: (Q, n) class numbers of equal answers.
        weights: (Q, n) weights, not negative.
        best_of_class: (Q, n) scores: of the candidates with the winning answer the one with the best score is taken,
            and the best of all where no candidate has an answer. By default the first one is taken, and the first of
            all.
    """
    count = len(answer_classes)
    rows, answered = np.arange(count)[:, None], answer_classes >= 0
    width = int(answer_classes.max(initial=0)) + 1
    slots = rows * width + np.where(answered, answer_classes, 0)
    sums = np.bincount(slots.ravel(), np.where(answered, weights, 0.0).ravel(), count * width)
    support = np.where(answered, sums[slots], -np.inf)
    # The first of equals, so the answer given first.
    winners = support.argmax(axis=1)
    if best_of_class is None:
        return winners
    is_unanswered = ~answered.any(axis=1, keepdims=True)
    agrees = np.logical_or(answer_classes == answer_classes[rows, winners[:, None]], is_unanswered)
    return np.where(agrees, best_of_class, -np.inf).argmax(axis=1)
