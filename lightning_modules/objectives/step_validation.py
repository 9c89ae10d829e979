"""Agreement of step scores with the Monte Carlo scores of the process validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional import mean_absolute_error, mean_squared_error
from torchmetrics.functional.classification import binary_auroc

from datamodules.batching.collate import StepBatch
from datamodules.conversation.labels import IGNORE_INDEX, value_labels
from lightning_modules.distributed.gathering import SampleMeans, gather_rows
from lightning_modules.metrics.step_f1 import StepF1
from lightning_modules.metrics.step_threshold import middle
from lightning_modules.objectives.step_loss import LossSum
from lightning_modules.objectives.table import objective_named
from lightning_modules.protocol import Protocol


@dataclass(frozen=True)
class _Row:
    """A conversation's steps that have a Monte Carlo score."""

    sample_id: str
    scores: list[float]
    mc: list[float]
    is_right: list[bool]


class StepValidation:
    """Loss and step metrics of the process validation split.

    Metrics are over all steps that have a Monte Carlo score, including those that a loss option leaves out. A step is
    right if its Monte Carlo score is above the protocol's threshold, whatever the objective, so that F1 (at the middle
    of the score range) and AUROC of different objectives compare. If the objective learns the Monte Carlo score itself,
    ``mean_squared_error`` (the Brier score against it) and ``mean_absolute_error`` are added.

    Conversations of all ranks count once each and in a fixed order: results do not depend on the number of ranks.

    Args:
        protocol: The model's protocol.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.threshold = protocol.threshold
        self.score_range = protocol.score_range
        self.learns_mc = objective_named(protocol.objective).learns_mc
        self._losses = SampleMeans()
        self._rows: list[_Row] = []

    def update(self, batch: StepBatch, scores: Tensor, losses: LossSum) -> None:
        """Add a batch.

        Args:
            batch: B conversations of S steps.
            scores: (B, S) step scores, any value at padding.
            losses: (B,) totals and weights of the conversations' losses.
        """
        self._losses.update(batch.sample_ids, losses.weight, loss=losses.total)
        scores, mc = scores.double().cpu(), batch.mc.cpu()
        labels = value_labels(mc, self.threshold)
        for row, sample_id in enumerate(batch.sample_ids):
            labelled = labels[row] != IGNORE_INDEX
            found = (scores[row], mc[row], labels[row] == 0)
            self._rows.append(_Row(sample_id, *(values[labelled].tolist() for values in found)))

    def compute(self) -> dict[str, float]:
        """Metrics by name, then reset; empty if there was no conversation. All ranks must call it together."""
        gathered = gather_rows(self._rows, key=lambda row: row.sample_id)
        rows = sorted(gathered, key=lambda row: row.sample_id)
        self._rows = []
        found = self._losses.compute()
        return found | {name: float(value) for name, value in self._agreement(rows).items()} if rows else found

    def _agreement(self, rows: Sequence[_Row]) -> dict[str, Tensor]:
        scores = torch.tensor([score for row in rows for score in row.scores], dtype=torch.float64)
        is_right = torch.tensor([label for row in rows for label in row.is_right], dtype=torch.bool)
        low, high = self.score_range
        f1 = StepF1(middle(self.score_range), sync_on_compute=False)
        f1.update(scores, is_right)
        # What is outside of [0, 1] would be taken for logits.
        auroc = binary_auroc((scores - low) / (high - low), is_right.long())
        if not self.learns_mc:
            return {**f1.compute(), "auroc": auroc}
        mc = torch.tensor([value for row in rows for value in row.mc], dtype=torch.float64)
        errors = {
            "mean_squared_error": mean_squared_error(scores, mc),
            "mean_absolute_error": mean_absolute_error(scores, mc),
        }
        return {**f1.compute(), "auroc": auroc, **errors}
