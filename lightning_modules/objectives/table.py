"""The training objectives of a reward model: one entry each, and no other list of them.

To add an objective, write its target and its loss and add an entry to :data:`OBJECTIVES`; the command line, the
protocol, the loss, the validation metrics and the model card read the table.

B conversations, S steps of the longest one, K class tokens, best first. ``mc`` is the Monte Carlo score of a step in
[0, 1], NaN where a step has none. A target is a distribution over the class tokens, NaN where a step has no label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from datamodules.conversation.labels import IGNORE_INDEX, advantage_labels, soft_targets, value_labels
from datamodules.conversation.messages import DEFAULT_CLASS_TOKENS
from lightning_modules.objectives.beta_binomial import beta_binomial_loss, uncertainty

TargetFunction = Callable[[Tensor, Tensor | None, float], Tensor]
"""``(mc, question_accuracy, threshold)`` -> targets: (B, S), (B,) or None, a number -> (B, S, K)."""
LossFunction = Callable[..., Tensor]
"""``(logits, targets, class_weights)`` -> losses: (B, S, K) twice, (K,) -> (B, S), each weighted by its target. An
objective that ``reads_counts`` gets the numbers of continuations, too: (B, S), below 1 where unknown."""

_OPTIONS = frozenset({"class_weights", "averaging", "language_model_loss_on_verdicts"})


@dataclass(frozen=True)
class Objective:
    """What a reward model is trained on, and how its step scores are read.

    Attributes:
        name: Value of the key ``objective``.
        card_sentence: What the model has learned, for the model card; ``{threshold:g}`` stands for the threshold.
        targets: See :data:`TargetFunction`.
        loss: See :data:`LossFunction`.
        critic: What reports call a model of it.
        loss_options: Names of the :class:`lightning_modules.objectives.step_loss.LossOptions` that it takes.
        class_tokens: K texts, best first, each one token; the first one also stands in past assistant turns.
        class_values: K values; the score of a step is their mean under the class probabilities.
        response_as_one_step: Read the whole response as one step (an outcome reward model).
        learns_mc: Scores estimate the Monte Carlo score itself, so that their distance from it is a metric.
        compares_steps: Targets tell whether the Monte Carlo score rose or fell from step to step.
        reads_counts: The loss reads how often steps were continued.
        uncertainty: From class logits, (..., K), to the standard deviation of what the score estimates, (...); None if
            the model learns none.
    """

    name: str
    card_sentence: str
    targets: TargetFunction
    loss: LossFunction
    critic: str = "PRM"
    loss_options: frozenset[str] = _OPTIONS
    class_tokens: tuple[str, ...] = DEFAULT_CLASS_TOKENS
    class_values: tuple[float, ...] = (1.0, 0.0)
    response_as_one_step: bool = False
    learns_mc: bool = False
    compares_steps: bool = False
    reads_counts: bool = False
    uncertainty: Callable[[Tensor], Tensor] | None = None


def one_hot_targets(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Targets of class labels: (B, S) long to (B, S, K); NaN at :data:`IGNORE_INDEX`."""
    targets = one_hot(labels.clamp_min(0), num_classes).to(dtype)
    return targets.masked_fill((labels == IGNORE_INDEX)[..., None], float("nan"))


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor) -> Tensor:
    """Cross-entropy with class weights at its terms, as in PyTorch."""
    return -(targets * class_weights * logits.log_softmax(-1)).sum(-1)


def squared_error(logits: Tensor, targets: Tensor, class_weights: Tensor) -> Tensor:
    """Squared error of the probability of the first class, times the mean class weight under the target."""
    return (targets * class_weights).sum(-1) * (logits.softmax(-1)[..., 0] - targets[..., 0]).square()


def _value_targets(mc: Tensor, question_accuracy: Tensor | None, threshold: float) -> Tensor:
    return one_hot_targets(value_labels(mc, threshold), 2, mc.dtype)


def _advantage_targets(mc: Tensor, question_accuracy: Tensor | None, threshold: float) -> Tensor:
    return one_hot_targets(advantage_labels(mc, question_accuracy), 3, mc.dtype)


def _soft_targets(mc: Tensor, question_accuracy: Tensor | None, threshold: float) -> Tensor:
    return soft_targets(mc)


_ENTRIES = (
    Objective(
        name="value",
        card_sentence="whether a step is right: its Monte Carlo score exceeds {threshold:g}",
        targets=_value_targets,
        loss=cross_entropy,
        loss_options=_OPTIONS | {"early_stop", "focal_gamma"},
    ),
    Objective(
        name="advantage",
        card_sentence="whether a step raises, keeps or lowers the Monte Carlo score",
        targets=_advantage_targets,
        loss=cross_entropy,
        critic="PRM advantage",
        loss_options=_OPTIONS | {"early_stop", "focal_gamma"},
        class_tokens=("+", "=", "-"),
        class_values=(1.0, 0.0, -1.0),
        compares_steps=True,
    ),
    Objective(
        name="outcome",
        card_sentence="whether the response as a whole is right: the score of its last step exceeds {threshold:g}",
        targets=_value_targets,
        loss=cross_entropy,
        critic="ORM",
        loss_options=_OPTIONS | {"focal_gamma"},
        response_as_one_step=True,
    ),
    Objective(
        name="soft",
        card_sentence="the Monte Carlo score of a step, by cross-entropy against it",
        targets=_soft_targets,
        loss=cross_entropy,
        critic="PRM soft",
        loss_options=_OPTIONS | {"early_stop", "focal_gamma", "binomial_weight"},
        learns_mc=True,
    ),
    Objective(
        name="regression",
        card_sentence="the Monte Carlo score of a step, by squared error",
        targets=_soft_targets,
        loss=squared_error,
        critic="PRM regression",
        loss_options=frozenset({"class_weights", "averaging", "early_stop"}),
        learns_mc=True,
    ),
    Objective(
        name="beta_binomial",
        card_sentence="how often continuations of a step succeed, and how sure that is (beta-binomial likelihood)",
        targets=_soft_targets,
        loss=beta_binomial_loss,
        critic="PRM beta-binomial",
        loss_options=frozenset({"class_weights", "averaging", "early_stop"}),
        learns_mc=True,
        reads_counts=True,
        uncertainty=uncertainty,
    ),
)

OBJECTIVES: dict[str, Objective] = {entry.name: entry for entry in _ENTRIES}

if TYPE_CHECKING:
    ObjectiveName = str
else:
    # What the command line offers is read from this type.
    ObjectiveName = Literal[tuple(OBJECTIVES)]


def objective_named(name: str) -> Objective:
    """The entry of an objective.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {name!r}")
    return OBJECTIVES[name]
