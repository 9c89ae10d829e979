"""From Monte Carlo scores to training targets.

``mc`` is (..., S): the Monte Carlo score of each of S steps in [0, 1], NaN where there is no step or no score. Labels
are (..., S) long: the index of the class token, best first; :data:`IGNORE_INDEX` where a step stays out of the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE_INDEX = -100

_RIGHT, _WRONG = 0, 1
_BETTER, _EQUAL, _WORSE = 0, 1, 2


def value_labels(mc: Tensor, threshold: float) -> Tensor:
    """Classes ``+`` (0) and ``-`` (1): a step is correct if its score exceeds the threshold (paper, section 3.2)."""
    labels = torch.where(mc > threshold, _RIGHT, _WRONG)
    return labels.masked_fill(mc.isnan(), IGNORE_INDEX)


def advantage_labels(mc: Tensor, question_accuracy: Tensor | None = None) -> Tensor:
    """Classes ``+`` (0), ``=`` (1) and ``-`` (2): the score rose, stayed or fell with the step.

    Args:
        mc: (..., S) scores.
        question_accuracy: (...) accuracy of the policy before the first step. Without it the first step has no label.

    Returns:
        (..., S) labels; a step whose predecessor has no score has no label.
    """
    before = torch.full_like(mc, float("nan"))
    before[..., 1:] = mc[..., :-1]
    if question_accuracy is not None:
        before[..., 0] = question_accuracy
    change = mc - before
    labels = torch.where(change > 0, _BETTER, torch.where(change < 0, _WORSE, _EQUAL))
    return labels.masked_fill(change.isnan(), IGNORE_INDEX)


def soft_targets(mc: Tensor) -> Tensor:
    """Probabilities of ``+`` and ``-``: (..., S, 2) holding ``mc`` and ``1 - mc``; NaN stays NaN."""
    return torch.stack([mc, 1.0 - mc], dim=-1)


def until_first_error(mc: Tensor, threshold: float) -> Tensor:
    """Mask of the steps up to and including the first wrong one (score at most the threshold): (..., S) bool.

    A step without a score is not wrong.
    """
    is_wrong = (mc <= threshold).long()
    return is_wrong.cumsum(-1) - is_wrong == 0
