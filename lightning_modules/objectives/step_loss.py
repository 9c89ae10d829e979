"""The loss of a reward model over the steps of a batch: options, weights and averaging, whatever the objective.

B conversations, S steps of the longest one, K class tokens, best first. A target is a distribution over the class
tokens, (B, S, K), NaN where a step stays out of the loss. Such a step is still part of the conversation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.conversation.labels import until_first_error, value_labels
from lightning_modules.objectives.table import OBJECTIVES, objective_named

Averaging = Literal["step", "sample"]


@dataclass(frozen=True)
class LossOptions:
    """Options of the step loss. Which of them an objective takes is in its entry of the table of objectives.

    Attributes:
        early_stop: Leave out the steps after the first incorrect one (Monte Carlo score at most the threshold). The
            incorrect step itself stays in.
        class_weights: A weight for each class token, best first. With [1, 9] a wrong step counts nine times as much as
            a right one. The mean is weighted, as in PyTorch's ``cross_entropy``: [2, 18] gives the same loss.
        focal_gamma: Multiply the loss of a step by d ** gamma, where d is the total variation distance between target
            and probabilities. For class labels d is ``1 - p`` of the right class (focal loss, Lin et al. 2017,
            arXiv 1708.02002); for soft labels it is ``|mc - p|`` (quality focal loss, Li et al. 2020,
            arXiv 2006.04388). 0 switches it off.
        averaging: ``step``: mean over all labelled steps of the batch. ``sample``: mean over the labelled steps of each
            solution, then mean over the solutions that have any.
        binomial_weight: For soft labels: weight a step by its number of Monte Carlo continuations. The loss is then the
            mean negative log-likelihood of a continuation's outcome, which is the binomial likelihood up to a constant.
            A step whose number of continuations is unknown counts once.
        language_model_loss_on_verdicts: Train the verdict over the whole vocabulary, and the token that ends its turn,
            as the released training does. The loss of a step is the mean of both tokens. By default the class tokens
            are compared with each other alone. See :mod:`lightning_modules.objectives.language_model_loss`.
    """

    early_stop: bool = False
    class_weights: list[float] | None = None
    focal_gamma: float = 0.0
    averaging: Averaging = "step"
    binomial_weight: bool = False
    language_model_loss_on_verdicts: bool = False

    @classmethod
    def of(cls, options: LossOptions | Mapping[str, Any] | None) -> LossOptions:
        """The options as an object. Checkpoints hold them as a mapping.

        Raises:
            TypeError: If the mapping has an unknown key.
        """
        return options if isinstance(options, LossOptions) else cls(**options or {})


class LossSum(NamedTuple):
    """A weighted mean as numerator and denominator, so that micro-batches and ranks can be summed before dividing.

    Attributes:
        total: Weighted sum of losses: a scalar, or (B,) with one for each solution.
        weight: Sum of the weights, of the same shape, without gradient.
    """

    total: Tensor
    weight: Tensor

    @property
    def mean(self) -> Tensor:
        """The loss; 0 with gradients of 0 where the weight is 0."""
        return self.total / torch.where(self.weight > 0, self.weight, 1)

    @property
    def sum(self) -> LossSum:
        """The sum over the solutions: from (B,) to scalars."""
        return LossSum(self.total.sum(), self.weight.sum())


def step_scores(logits: Tensor, values: tuple[float, ...]) -> Tensor:
    """Expected value of the class tokens: (..., K) logits to (...) scores between the lowest and highest value."""
    return logits.softmax(-1) @ logits.new_tensor(values)


class StepLoss:
    """The loss of a batch of steps, on targets and with a loss function of the objective.

    The weight of a step is the mean class weight under its target, times its number of continuations if
    ``binomial_weight`` is set.

    Args:
        objective: Name of an entry of :data:`lightning_modules.objectives.table.OBJECTIVES`.
        threshold: A step is right if its Monte Carlo score is above it.
        options: Options of the loss; the defaults if None.

    Raises:
        ValueError: If the objective is unknown, or an option is out of range or not one of the objective's.
    """

    def __init__(self, objective: str, threshold: float, options: LossOptions | None = None) -> None:
        self.objective = objective_named(objective)
        self.threshold = threshold
        self.options = options or LossOptions()
        self.num_classes = len(self.objective.class_values)
        self._check()

    def _check(self) -> None:
        options, objective = self.options, self.objective
        if not (math.isfinite(options.focal_gamma) and options.focal_gamma >= 0):
            raise ValueError(f"loss.focal_gamma must be at least 0, got {options.focal_gamma}")
        if options.averaging not in ("step", "sample"):
            raise ValueError(f"loss.averaging must be 'step' or 'sample', got {options.averaging!r}")
        for field in fields(options):
            if getattr(options, field.name) != field.default and field.name not in objective.loss_options:
                takers = ", ".join(name for name, entry in OBJECTIVES.items() if field.name in entry.loss_options)
                raise ValueError(
                    f"loss.{field.name} does not go with objective {objective.name!r}, only with {takers}; leave it out"
                )
        weights = options.class_weights
        if weights is None:
            return
        if len(weights) != self.num_classes:
            raise ValueError(
                f"loss.class_weights needs {self.num_classes} weights for objective {objective.name!r}, got {weights}"
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise ValueError(f"loss.class_weights must be finite, not negative and not all 0, got {weights}")

    @property
    def needs_all_continuations(self) -> str | None:
        """Why steps that were continued only up to their first success are no targets; None if they are.

        Then k of n is 1 of n. The label ``k > 0`` is right, and so is the likelihood of all n outcomes, which is what
        ``binomial_weight`` sums up and ``beta_binomial`` integrates (see
        :mod:`lightning_modules.monte_carlo.stopping`). A single share is too large.
        """
        name, options = self.objective.name, self.options
        if self.objective.learns_mc and not options.binomial_weight and not self.objective.reads_counts:
            advice = "set loss.binomial_weight" if "binomial_weight" in self.objective.loss_options else "take soft"
            return f"objective {name!r} learns the score itself; {advice}, or annotate with stopping: all"
        if self.objective.compares_steps:
            return f"objective {name!r} compares scores of steps; annotate with stopping: all"
        if self.threshold > 0 and (not self.objective.learns_mc or options.early_stop):
            return f"the threshold is {self.threshold:g}; take threshold 0, or annotate with stopping: all"
        return None

    @property
    def needs_measured_scores(self) -> str | None:
        """Why steps whose scores a binary search has inferred are no targets; None if labels suffice."""
        if self.objective.learns_mc or self.objective.compares_steps:
            return f"objective {self.objective.name!r} learns more than labels; annotate with search: linear"
        if self.threshold > 0:
            return f"the threshold is {self.threshold:g}; take threshold 0, or annotate with search: linear"
        return None

    def targets(self, mc: Tensor, question_accuracy: Tensor | None = None) -> Tensor:
        """Targets of the class probabilities.

        Args:
            mc: (B, S) Monte Carlo scores in [0, 1], NaN where there is none.
            question_accuracy: (B,) accuracy of the policy before the first step, NaN where unknown. Objectives that
                compare a step with the one before need it for the first step.

        Returns:
            (B, S, K) distributions, NaN where a step stays out of the loss.
        """
        targets = self.objective.targets(mc, question_accuracy, self.threshold)
        if self.options.early_stop:
            targets = targets.masked_fill(~until_first_error(mc, self.threshold)[..., None], float("nan"))
        return targets

    def right_steps(self, mc: Tensor) -> Tensor:
        """Steps with a score above the threshold that ``early_stop`` does not leave out: (B, S) bool."""
        is_right = value_labels(mc, self.threshold) == 0
        return is_right & until_first_error(mc, self.threshold) if self.options.early_stop else is_right

    def __call__(self, logits: Tensor, mc: Tensor, **others: Tensor | None) -> LossSum:
        """The loss of the batch; arguments as of :meth:`of_solutions`.

        Returns:
            Scalars. With averaging over samples the weight is the number of solutions that have a label.
        """
        return self.of_solutions(logits, mc, **others).sum

    def of_solutions(
        self,
        logits: Tensor,
        mc: Tensor,
        *,
        question_accuracy: Tensor | None = None,
        num_mc_total: Tensor | None = None,
        added: Tensor | None = None,
        step_weights: Tensor | None = None,
    ) -> LossSum:
        """The share of each solution in the loss of the batch.

        Args:
            logits: (B, S, K) float32 class logits; anything where a step has no label.
            mc: (B, S) Monte Carlo scores, NaN where there is none.
            question_accuracy: (B,), see :meth:`targets`.
            num_mc_total: (B, S) numbers of continuations, -1 where unknown.
            added: (B, S) further losses, added to those of labelled steps with the same weights.
            step_weights: (B, S) how often each step counts; once by default.

        Returns:
            (B,) totals and (B,) weights.
        """
        targets = self.targets(mc, question_accuracy)
        is_labelled = ~targets.isnan().any(-1)
        # Padding may hold anything, infinities too, and 0 times infinity is no number.
        logits = logits.masked_fill(~is_labelled[..., None], 0.0)
        targets = targets.masked_fill(~is_labelled[..., None], 0.0)
        class_weights = logits.new_tensor(self.options.class_weights or [1.0] * self.num_classes)
        repeats = self._repeats(num_mc_total, is_labelled)
        if step_weights is not None:
            repeats = repeats * step_weights
        weights = (targets * class_weights).sum(-1) * repeats
        counts = (self._counts(num_mc_total, mc),) if self.objective.reads_counts else ()
        losses = repeats * self.objective.loss(logits, targets, class_weights, *counts)
        if self.options.focal_gamma:
            distance = (targets - logits.softmax(-1)).abs().sum(-1) / 2
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

    @staticmethod
    def _counts(num_mc_total: Tensor | None, mc: Tensor) -> Tensor:
        """(B, S) numbers of continuations, -1 where unknown."""
        return torch.full_like(mc, -1) if num_mc_total is None else num_mc_total
