"""Agreement of step scores with the Monte Carlo scores of the process validation split."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric
from torchmetrics.classification import BinaryAUROC

from datamodules.process.labels import IGNORE_INDEX, value_labels
from lightning_modules.metrics.step_f1 import StepF1
from lightning_modules.metrics.step_threshold import middle
from lightning_modules.protocol import Protocol


class StepValidation(nn.Module):
    """Metrics over all steps that have a Monte Carlo score, those that a loss option leaves out too.

    A step is right if its score exceeds the protocol's threshold, whatever the objective: F1 (judged at the middle of
    the model's scores) and AUROC compare objectives. Where the Monte Carlo score itself is learnt (``soft``,
    ``regression``), ``mean_squared_error`` (the Brier score against it) and ``mean_absolute_error`` join them.

    Args:
        protocol: Of the model.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self.threshold = protocol.threshold
        self.score_range = protocol.score_range
        self.f1 = StepF1(middle(protocol.score_range))
        self.auroc = BinaryAUROC()
        self.errors = nn.ModuleDict()
        if protocol.objective in ("soft", "regression"):
            self.errors["mean_squared_error"] = MeanSquaredError()
            self.errors["mean_absolute_error"] = MeanAbsoluteError()

    def update(self, scores: Tensor, mc: Tensor) -> None:
        """Take the steps of a batch: scores and Monte Carlo scores, each (B, S), the latter NaN where there is none."""
        labels = value_labels(mc, self.threshold)
        is_labelled = labels != IGNORE_INDEX
        scores, is_right = scores[is_labelled], labels[is_labelled] == 0
        low, high = self.score_range
        self.f1.update(scores, is_right)
        # What is outside of [0, 1] would be taken for logits, in some batches and not in others.
        self.auroc.update((scores - low) / (high - low), is_right.long())
        for error in self._errors():
            error.update(scores, mc[is_labelled])

    def compute(self) -> dict[str, Tensor]:
        """The metrics by name; nothing before the first update."""
        if not self.f1.update_count:
            return {}
        errors = {name: error.compute() for name, error in zip(self.errors, self._errors(), strict=True)}
        return {**self.f1.compute(), "auroc": self.auroc.compute(), **errors}

    def reset(self) -> None:
        """Forget all steps."""
        for metric in (self.f1, self.auroc, *self._errors()):
            metric.reset()

    def _errors(self) -> list[Metric]:
        return [error for error in self.errors.values() if isinstance(error, Metric)]
