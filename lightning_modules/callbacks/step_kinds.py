"""Metrics of steps that read the picture and of steps that reason, and a weight of the former in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from datamodules.batching.collate import StepBatch
from datamodules.conversation.labels import IGNORE_INDEX, value_labels
from datamodules.conversation.step_kinds import KIND_NAMES, PERCEPTION
from datamodules.process_bench.solutions import CORRECT, INCORRECT, ProcessBenchBatch
from lightning_modules.callbacks.reporting import (
    is_partial_evaluation,
    output_folder,
    protocol_of,
    show_in_tensorboard,
    write_report,
)
from lightning_modules.distributed.gathering import gather_rows
from lightning_modules.metrics.step_f1 import StepF1
from lightning_modules.metrics.step_threshold import middle
from lightning_modules.metrics.table import Cell, Table, print_tables

_SPLITS = {"validation": "process validation split", "process_bench": "VisualProcessBench"}


@dataclass(frozen=True)
class _Steps:
    """The labelled steps of a solution."""

    split: str
    sample_id: str
    scores: list[float]
    is_right: list[bool]
    kinds: list[int]


class StepKinds(Callback):
    """Reports how well perception and reasoning steps are judged, each apart, and can weight perception in training.

    The kind of a step is told by :func:`datamodules.conversation.step_kinds.step_kind`. Logged metrics of each split
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
        self.perception_weight, self.output_dir = perception_weight, output_dir
        self.metrics: dict[str, dict[str, float]] = {}
        self._rows: list[_Steps] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Weight the perception steps of the batch."""
        if self.perception_weight != 1 and isinstance(batch, StepBatch) and batch.step_kinds is not None:
            batch.weigh_steps(torch.where(batch.step_kinds == PERCEPTION, self.perception_weight, 1.0))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the scores of an interrupted epoch."""
        self._rows = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of a batch of labelled solutions."""
        if trainer.sanity_checking or not isinstance(batch, StepBatch) or batch.step_kinds is None:
            return
        if isinstance(batch, ProcessBenchBatch):
            judged = batch.correctness.cpu()
            split, is_right, is_labelled = (
                "process_bench",
                judged == CORRECT,
                (judged == CORRECT) | (judged == INCORRECT),
            )
        else:
            labels = value_labels(batch.mc.cpu(), protocol_of(pl_module).threshold)
            split, is_right, is_labelled = "validation", labels == 0, labels != IGNORE_INDEX
        is_step, kinds = (batch.step_positions >= 0).cpu(), batch.step_kinds.cpu()
        for row, (scores,) in enumerate(outputs.step_scores):
            labelled = is_labelled[row][is_step[row]]
            values = (
                scores.double()[labelled],
                is_right[row][is_step[row]][labelled],
                kinds[row][is_step[row]][labelled],
            )
            self._rows.append(_Steps(split, batch.sample_ids[row], *(each.tolist() for each in values)))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report by split and kind; kinds with one label alone have no AUROC."""
        if trainer.sanity_checking:
            return
        rows = sorted(
            gather_rows(self._rows, key=lambda row: (row.split, row.sample_id)), key=lambda row: row.sample_id
        )
        self._rows = []
        protocol = protocol_of(pl_module)
        threshold = middle(protocol.score_range) if protocol.step_threshold is None else protocol.step_threshold
        self.metrics = {}
        for split in _SPLITS:
            for kind, name in KIND_NAMES.items():
                found = _of_kind([row for row in rows if row.split == split], kind)
                if len(found[0]):
                    self.metrics[f"{split}/{name}"] = _metrics(*found, threshold, protocol.score_range)
        logged = {f"step_kinds/{key}/{name}": value for key, of in self.metrics.items() for name, value in of.items()}
        # The values are the same on all ranks; sync_dist only tells Lightning so.
        pl_module.log_dict(logged, sync_dist=True)
        folder = output_folder(trainer, self.output_dir)
        if trainer.is_global_zero and self.metrics and not is_partial_evaluation(trainer):
            markdown = self._table().to_markdown()
            show_in_tensorboard(trainer, "step_kinds/table", markdown)
            if folder is not None:
                write_report(trainer, folder, "step_kinds", {"metrics": self.metrics}, markdown)

    on_test_epoch_end = on_validation_epoch_end

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

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table of `validate` and `test` after the progress bar."""
        if stage in ("validate", "test") and trainer.is_global_zero and self.metrics:
            print_tables([self._table()])


def _of_kind(rows: Sequence[_Steps], kind: int) -> tuple[Tensor, Tensor]:
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
