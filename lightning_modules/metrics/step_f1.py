"""F1 of correct steps and of incorrect steps, and their mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class StepF1(Metric):
    """F1 scores of binary step judgements, as VisualProcessBench reports them.

    A step counts as judged correct if its score reaches the threshold. `compute` returns scalar tensors: ``macro_f1``
    (mean of the next two), ``correct_f1``, ``wrong_f1``, ``accuracy``, all in [0, 1], and the counts ``correct_steps``
    and ``wrong_steps`` by label. An F1 score whose class neither occurs nor is predicted is 0. The state is four sums,
    so sums over ranks are exact.

    Args:
        threshold: Threshold on the step score. At 0.5 both class tokens are equally likely; the released VisualPRM-8B
            uses 0.85 on VisualProcessBench.
        options: Options of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If the threshold is not in [-1, 1], where all scores lie.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    true_correct: Tensor
    false_correct: Tensor
    false_wrong: Tensor
    true_wrong: Tensor

    def __init__(self, threshold: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        if not -1 <= threshold <= 1:
            raise ValueError(f"threshold must be in [-1, 1], got {threshold}")
        self.threshold = threshold
        for name in ("true_correct", "false_correct", "false_wrong", "true_wrong"):
            self.add_state(name, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, scores: Tensor, is_correct: Tensor) -> None:
        """Count n judgements.

        Args:
            scores: (n,) step scores.
            is_correct: (n,) bool labels.

        Raises:
            ValueError: If the shapes differ, the labels are not bool or a score is NaN.
        """
        if scores.shape != is_correct.shape or scores.ndim != 1:
            raise ValueError(
                f"expected scores and labels of one shape (n,), got {tuple(scores.shape)}, {tuple(is_correct.shape)}"
            )
        if is_correct.dtype != torch.bool:
            raise ValueError(f"expected bool labels, got {is_correct.dtype}")
        if scores.isnan().any():
            index = int(scores.isnan().nonzero()[0])
            raise ValueError(f"step score {index} of {len(scores)} is NaN; leave padding out before update()")
        judged = scores >= self.threshold
        self.true_correct += (judged & is_correct).sum()
        self.false_correct += (judged & ~is_correct).sum()
        self.false_wrong += (~judged & is_correct).sum()
        self.true_wrong += (~judged & ~is_correct).sum()

    def compute(self) -> dict[str, Tensor]:
        """The metrics over all judgements so far."""
        errors = self.false_correct + self.false_wrong
        # 2 TP / (2 TP + FP + FN); the numerator is 0 wherever the clamp takes hold.
        correct_f1 = 2 * self.true_correct / (2 * self.true_correct + errors).clamp(min=1)
        wrong_f1 = 2 * self.true_wrong / (2 * self.true_wrong + errors).clamp(min=1)
        right = self.true_correct + self.true_wrong
        return {
            "macro_f1": (correct_f1 + wrong_f1) / 2,
            "correct_f1": correct_f1,
            "wrong_f1": wrong_f1,
            "accuracy": right / (right + errors).clamp(min=1),
            "correct_steps": (self.true_correct + self.false_wrong).float(),
            "wrong_steps": (self.true_wrong + self.false_correct).float(),
        }
