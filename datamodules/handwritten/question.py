"""A question of the miniature world with its known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from datamodules.conversation.steps import STEP_SEPARATOR

OPTION_LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class WorldQuestion:
    """One question about zero, one or two pictures, with its only correct step-by-step solution.

    Attributes:
        question_id: Unique within a split.
        family: Name of the question family, see :data:`datamodules.handwritten.families.FAMILIES`.
        images: RGB pictures of 32 x 32 pixels.
        question: Text; holds ``<image>`` placeholders only when there are several pictures. Options are not part of it.
        options: Option texts in letter order; empty for a free-form question.
        answer: Content of the box: a number, or an option letter for multiple choice.
        steps: The true solution, 3 to 6 steps; the last one holds the boxed answer.
        neutral_steps: Indices of steps that state nothing that could be true or false.
        metadata: Group and variant keys that the benchmark tables need.
    """

    question_id: str
    family: str
    images: tuple[Image.Image, ...]
    question: str
    options: tuple[str, ...]
    answer: str
    steps: tuple[str, ...]
    neutral_steps: frozenset[int] = frozenset()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question_with_options(self) -> str:
        """The text that a policy and a reward model read: the question followed by its lettered options."""
        lines = [f"{letter}. {text}" for letter, text in zip(OPTION_LETTERS, self.options, strict=False)]
        return "\n".join([self.question, *lines])

    @property
    def solution(self) -> str:
        """The true response: the steps separated by blank lines."""
        return STEP_SEPARATOR.join(self.steps)

    def step_correctness(self, steps: list[str]) -> list[int]:
        """Exact labels of the steps of a response to this question; see :func:`true_step_labels`."""
        return true_step_labels(steps, self.steps, self.neutral_steps)


def true_step_labels(steps: Sequence[str], true_steps: Sequence[str], neutral_steps: Set[int]) -> list[int]:
    """Exact step labels in the convention of VisualProcessBench.

    A step is correct if it belongs to the solution and is true of the picture. A question has one solution text, so a
    step is correct exactly if it equals the true step with the same index. Later steps that build on an error are
    therefore incorrect, too, unless they return to the truth.

    Args:
        steps: Steps of a response.
        true_steps: Steps of the solution.
        neutral_steps: Indices of true steps that state nothing.

    Returns:
        One label per step: 1 correct, -1 incorrect, 0 neutral.
    """
    labels = []
    for index, step in enumerate(steps):
        is_true = index < len(true_steps) and step.strip() == true_steps[index]
        labels.append((0 if index in neutral_steps else 1) if is_true else -1)
    return labels
