"""Training objectives of a reward model: what the judgement of a step is compared with, and how steps are averaged.

B conversations, S steps of the longest, K class tokens (best first). A target is a distribution over the class tokens,
(B, S, K), NaN where a step stays out of the loss; such a step still stands in the conversation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from datamodules.conversation.labels import (
    IGNORE_INDEX,
    advantage_labels,
    soft_targets,
    until_first_error,
    value_labels,
)
from lightning_modules.protocol import Objective, class_values

Averaging = Literal["step", "sample"]


@dataclass(frozen=True)
class LossOptions:
    """Variants of the step loss.

    Attributes:
        early_stop: Leave the steps after the first incorrect one (Monte Carlo score at most the threshold) out; that
            one itself stays in.
        class_weights: A weight for each class token, best first: [1, 9] lets a wrong step count nine times as much as a
            right one. They weigh the mean, as in PyTorch's ``cross_entropy``: weights of [2, 18] change nothing.
        focal_gamma: Multiplies the loss of a step by d ** gamma, where d is the total variation distance between
            target and probabilities: ``1 - p`` of the right class (focal loss, Lin et al. 2017, arXiv 1708.02002), and
            ``|mc - p|`` of soft labels (quality focal loss, Li et al. 2020, arXiv 2006.04388). 0 switches it off.
        averaging: ``step``: the mean over all labelled steps of the batch. ``sample``: the mean over the labelled steps
            of each solution, then over the solutions that have any, so that a long solution counts no more than a short
            one.
        binomial_weight: With soft labels, let a step count as often as it has Monte Carlo continuations: the loss is
            then the mean negative log likelihood of a continuation's outcome, the binomial likelihood of k of n but for
            a constant. A step of an unknown number of continuations counts once.
    """

    early_stop: bool = False
    class_weights: list[float] | None = None
    focal_gamma: float = 0.0
    averaging: Averaging = "step"
    binomial_weight: bool = False

    @classmethod
    def of(cls, options: LossOptions | Mapping[str, Any] | None) -> LossOptions:
        """The options as an object; a mapping is what a checkpoint holds of them.

        Raises:
            TypeError: If the mapping has an unknown key.
        """
        return options if isinstance(options, LossOptions) else cls(**options or {})


class LossSum(NamedTuple):
    """A weighted mean in two parts, so that parts of batches and ranks can be put together before it is taken.

    Attributes:
        total: Weighted sum of losses, a scalar, or one for each of B solutions.
        weight: Sum of the weights, likewise, without gradient.
    """

    total: Tensor
    weight: Tensor

    @property
    def mean(self) -> Tensor:
        """The loss; 0 with gradients of 0 where nothing has a weight."""
        return self.total / torch.where(self.weight > 0, self.weight, 1)

    @property
    def sum(self) -> LossSum:
        """That of all solutions together, of one for each."""
        return LossSum(self.total.sum(), self.weight.sum())


def step_scores(logits: Tensor, values: tuple[float, ...]) -> Tensor:
    """The expected value of the class tokens: (..., K) logits to (...) scores between the least and greatest value."""
    return logits.softmax(-1) @ logits.new_tensor(values)


class StepLoss:
    """The loss of a batch of judged steps.

    ==========  ==================================================  ==============================================
    objective   target of a step                                    loss
    ==========  ==================================================  ==============================================
    value       ``+`` if mc > threshold, else ``-``                 cross-entropy
    outcome     the same of the whole response                      cross-entropy
    advantage   ``+``, ``=``, ``-``: mc rose, stayed, fell          cross-entropy
    soft        (mc, 1 - mc), never rounded                         cross-entropy
    regression  mc                                                  squared error of P(+)
    ==========  ==================================================  ==============================================

    A step's weight is the mean of the class weights under its target, times its number of continuations where
    ``binomial_weight`` is set. With soft labels the weights stand at the terms of the cross-entropy, as in PyTorch.

    Args:
        objective: See :class:`lightning_modules.protocol.Protocol`.
        threshold: On the Monte Carlo score, above which a step is right.
        options: Variants.

    Raises:
        ValueError: If an option does not go with the objective or is out of range; names the option.
    """

    def __init__(self, objective: Objective, threshold: float = 0.0, options: LossOptions | None = None) -> None:
        self.objective = objective
        self.threshold = threshold
        self.options = options or LossOptions()
        self.num_classes = len(class_values(objective))
        self._check()

    def _check(self) -> None:
        options, objective = self.options, self.objective
        if not (math.isfinite(options.focal_gamma) and options.focal_gamma >= 0):
            raise ValueError(f"loss.focal_gamma must be at least 0, got {options.focal_gamma}")
        if options.focal_gamma and objective == "regression":
            raise ValueError("loss.focal_gamma is for cross-entropy; leave it out with objective 'regression'")
        if options.binomial_weight and objective != "soft":
            raise ValueError(f"loss.binomial_weight is for objective 'soft', not {objective!r}")
        if options.early_stop and objective == "outcome":
            raise ValueError("loss.early_stop has no meaning with objective 'outcome', where a response is one step")
        if options.averaging not in ("step", "sample"):
            raise ValueError(f"loss.averaging must be 'step' or 'sample', got {options.averaging!r}")
        weights = options.class_weights
        if weights is None:
            return
        if len(weights) != self.num_classes:
            raise ValueError(
                f"loss.class_weights needs {self.num_classes} weights for objective {objective!r}, got {weights}"
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise ValueError(f"loss.class_weights must be finite, not negative and not all 0, got {weights}")

    def targets(self, mc: Tensor, question_accuracy: Tensor | None = None) -> Tensor:
        """What the class probabilities are compared with.

        Args:
            mc: (B, S) Monte Carlo scores, NaN where there is none.
            question_accuracy: (B,) accuracy before the first step, NaN where unknown; read by ``advantage`` alone.

        Returns:
            (B, S, K) distributions, NaN where a step stays out.
        """
        if self.objective in ("soft", "regression"):
            targets = soft_targets(mc)
        else:
            is_advantage = self.objective == "advantage"
            labels = advantage_labels(mc, question_accuracy) if is_advantage else value_labels(mc, self.threshold)
            targets = one_hot(labels.clamp_min(0), self.num_classes).to(mc.dtype)
            targets = targets.masked_fill((labels == IGNORE_INDEX)[..., None], float("nan"))
        if self.options.early_stop:
            targets = targets.masked_fill(~until_first_error(mc, self.threshold)[..., None], float("nan"))
        return targets

    def right_steps(self, mc: Tensor) -> Tensor:
        """Steps whose score exceeds the threshold and that are not left out by ``early_stop``: (B, S) bool."""
        is_right = value_labels(mc, self.threshold) == 0
        return is_right & until_first_error(mc, self.threshold) if self.options.early_stop else is_right

    def __call__(
        self,
        logits: Tensor,
        mc: Tensor,
        *,
        question_accuracy: Tensor | None = None,
        num_mc_total: Tensor | None = None,
        added: Tensor | None = None,
    ) -> LossSum:
        """Compare judgements with Monte Carlo scores.

        Args:
            logits: (B, S, K) float32 class logits; anything where a step has no score.
            mc: (B, S) Monte Carlo scores, NaN where there is none.
            question_accuracy: (B,), see :meth:`targets`.
            num_mc_total: (B, S) numbers of continuations, -1 where unknown.
            added: (B, S) more losses, added to those of labelled steps, with their weights.

        Returns:
            The loss; with averaging over samples its weight is the number of solutions that have a label.
        """
        parts = {"question_accuracy": question_accuracy, "num_mc_total": num_mc_total, "added": added}
        return self.of_solutions(logits, mc, **parts).sum

    def of_solutions(
        self,
        logits: Tensor,
        mc: Tensor,
        *,
        question_accuracy: Tensor | None = None,
        num_mc_total: Tensor | None = None,
        added: Tensor | None = None,
    ) -> LossSum:
        """The same in B parts, which add up to it: each solution's share, (B,) totals and (B,) weights."""
        targets = self.targets(mc, question_accuracy)
        is_labelled = ~targets.isnan().any(-1)
        # Padding may hold anything, infinities too, and 0 times infinity is no number.
        logits = logits.masked_fill(~is_labelled[..., None], 0.0)
        targets = targets.masked_fill(~is_labelled[..., None], 0.0)
        class_weights = logits.new_tensor(self.options.class_weights or [1.0] * self.num_classes)
        repeats = self._repeats(num_mc_total, is_labelled)
        weights = (targets * class_weights).sum(-1) * repeats
        probabilities = logits.softmax(-1)
        if self.objective == "regression":
            losses = weights * (probabilities[..., 0] - targets[..., 0]).square()
        else:
            losses = -repeats * (targets * class_weights * logits.log_softmax(-1)).sum(-1)
        if self.options.focal_gamma:
            distance = (targets - probabilities).abs().sum(-1) / 2
            # A root has no derivative at 0.
            distance = distance.clamp_min(torch.finfo(distance.dtype).tiny)
            losses = losses * distance**self.options.focal_gamma
        if added is not None:
            losses = losses + weights * added.masked_fill(~is_labelled, 0.0)
        of_solutions = LossSum(losses.sum(-1), weights.sum(-1))
        if self.options.averaging == "step":
            return of_solutions
        return LossSum(of_solutions.mean, (of_solutions.weight > 0).to(losses.dtype))

    def _repeats(self, num_mc_total: Tensor | None, is_labelled: Tensor) -> Tensor:
        """How often each step counts; 0 where it stays out."""
        if not self.options.binomial_weight or num_mc_total is None:
            return is_labelled.float()
        return num_mc_total.clamp_min(1).float() * is_labelled
