"""Metrics of perception and reasoning steps, and a training weight of perception steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from datamodules.batching.collate import StepBatch
from datamodules.conversation.step_kinds import KIND_NAMES, PERCEPTION
from lightning_modules.callbacks.evaluation import EvaluationCallback, Key
from lightning_modules.callbacks.labelled_steps import LabelledSteps, labelled_steps
from lightning_modules.callbacks.reporting import is_partial_evaluation, protocol_of
from lightning_modules.metrics.step_f1 import StepF1
from lightning_modules.metrics.step_threshold import middle
from lightning_modules.metrics.table import Cell, Table

_SPLITS = {"validation": "process validation split", "process_bench": "VisualProcessBench"}


class StepKinds(EvaluationCallback[LabelledSteps]):
    """Reports separately how well perception and reasoning steps are judged, and can weight perception in training.

    The kind of a step follows from :func:`datamodules.conversation.step_kinds.step_kind`. Logged metrics of each split
    and kind, ``step_kinds/<split>/<kind>/...``: ``macro_f1`` at the model's step threshold, ``auroc``, ``error_rate``
    (share of steps that are wrong) and ``steps``, where the split is ``validation`` or ``process_bench``. Files:
    ``step_kinds_<run>.json`` and ``.md``; `validate` and `test` print the table.

    Args:
        perception_weight: How often a perception step counts in the training loss; a reasoning step counts once.
        output_dir: Folder for the files; the logger's by default.

    Raises:
        ValueError: If the weight is not positive.
    """

    def __init__(self, perception_weight: float = 1.0, output_dir: str | None = None) -> None:
        if not 0 < perception_weight < float("inf"):
            raise ValueError(f"perception_weight must be above 0, got {perception_weight}")
        super().__init__(output_dir)
        self.perception_weight = perception_weight
        self.metrics: dict[str, dict[str, float]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Weight the perception steps of the batch."""
        if self.perception_weight != 1 and isinstance(batch, StepBatch) and batch.step_kinds is not None:
            batch.weigh_steps(torch.where(batch.step_kinds == PERCEPTION, self.perception_weight, 1.0))

    def rows_of_batch(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any
    ) -> Iterable[tuple[Key, LabelledSteps]]:
        """Scores, labels and kinds of a batch of labelled solutions."""
        if not isinstance(batch, StepBatch) or batch.step_kinds is None:
            return ()
        return labelled_steps(batch, outputs.step_scores, protocol_of(pl_module).threshold)

    def report_on(self, trainer: Trainer, pl_module: LightningModule, rows: list[LabelledSteps]) -> None:
        """Report by split and kind; kinds with one label alone have no AUROC."""
        protocol = protocol_of(pl_module)
        threshold = middle(protocol.score_range) if protocol.step_threshold is None else protocol.step_threshold
        self.metrics = {}
        for split in _SPLITS:
            for kind, name in KIND_NAMES.items():
                found = _of_kind([row for row in rows if row.split == split], kind)
                if len(found[0]):
                    self.metrics[f"{split}/{name}"] = _metrics(*found, threshold, protocol.score_range)
        logged = {f"step_kinds/{key}/{name}": value for key, of in self.metrics.items() for name, value in of.items()}
        self.log_metrics(pl_module, logged)
        if self.metrics and is_partial_evaluation(trainer):
            self.tables = [self._table()]
        elif self.metrics:
            self.publish(trainer, "step_kinds", {"metrics": self.metrics}, self._table())

    def _table(self) -> Table:
        rows = []
        for key, found in self.metrics.items():
            split, kind = key.split("/")
            shares = (found.get(name) for name in ("macro_f1", "auroc", "error_rate"))
            cells = ("-" if value is None else f"{100 * value:.1f}" for value in shares)
            rows.append([Cell(f"{_SPLITS[split]}, {kind}"), *map(Cell, cells), Cell(f"{found['steps']:.0f}")])
        header = ["Steps", "Macro F1", "AUROC", "Wrong", "Number"]
        note = "Kinds are told by a rule on the words of a step. Wrong: share of steps that are wrong."
        return Table("Perception and reasoning (%)", header, rows, note)


def _of_kind(rows: Sequence[LabelledSteps], kind: int) -> tuple[Tensor, Tensor]:
    """Scores and labels of the steps of a kind."""
    pairs = [
        (score, is_right)
        for row in rows
        for score, is_right, of_step in zip(row.scores, row.is_right, row.kinds, strict=True)
        if of_step == kind
    ]
    scores = torch.tensor([score for score, _ in pairs], dtype=torch.float64)
    return scores, torch.tensor([is_right for _, is_right in pairs], dtype=torch.bool)


def _metrics(scores: Tensor, is_right: Tensor, threshold: float, score_range: tuple[float, float]) -> dict[str, float]:
    f1 = StepF1(threshold, sync_on_compute=False)
    f1.update(scores, is_right)
    low, high = score_range
    found = {
        "macro_f1": float(f1.compute()["macro_f1"]),
        "error_rate": float((~is_right).double().mean()),
        "steps": float(len(scores)),
    }
    if is_right.any() and not is_right.all():
        # What is outside of [0, 1] would be taken for logits.
        found["auroc"] = float(binary_auroc((scores - low) / (high - low), is_right.long()))
    return found
