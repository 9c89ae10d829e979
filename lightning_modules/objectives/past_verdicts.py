"""The class tokens that stand in the assistant turns of training conversations, where they are to be the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from datamodules.conversation.labels import value_labels
from lightning_modules.objectives.table import objective_named


@dataclass(frozen=True)
class LabelsAsVerdicts:
    """Writes the label of each step, as the released training does (``past_verdicts: labels``).

    A step that was not sampled, or has no label for another reason, gets the last and worst class token, as in the
    released conversion of raw rows. A soft objective writes whether the score is above the threshold.

    Attributes:
        objective: An entry of :data:`lightning_modules.objectives.table.OBJECTIVES`.
        threshold: A step is right if its Monte Carlo score is above it.
        class_tokens: K texts, best first.
    """

    objective: str
    threshold: float
    class_tokens: tuple[str, ...]

    def __call__(self, mc: Sequence[float], question_accuracy: float) -> list[str]:
        """The class token of each step.

        Args:
            mc: S Monte Carlo scores, NaN where there is none.
            question_accuracy: Accuracy of the policy before the first step; NaN where unknown.
        """
        scores = torch.tensor([list(mc)], dtype=torch.float64)
        entry = objective_named(self.objective)
        if entry.learns_mc:
            labels = value_labels(scores, self.threshold)
        else:
            accuracy = torch.tensor([question_accuracy], dtype=torch.float64)
            targets = entry.targets(scores, accuracy, self.threshold)
            labels = targets.argmax(-1).masked_fill(targets.isnan().any(-1), -1)
        return [self.class_tokens[max(label, -1)] for label in labels[0].tolist()]
