"""Training data and results of a reward model, stored with its weights for the model card."""

from __future__ import annotations

import math
from typing import TypedDict

from lightning.pytorch import LightningModule, Trainer

from datamodules.interfaces import ProcessSupervisionData, data_module_of

REPORTED = ("best_of_n/", "process_bench/", "process_bench_sources/", "process_bench_oracle/", "validation/")
"""Prefixes of the names of the metrics that a model card shows."""


class TrainingRecord(TypedDict):
    """Plain values, so that a checkpoint may hold them.

    Attributes:
        sources: Number of training rows of each source of annotations.
        epochs: Completed epochs.
        steps: Optimizer steps.
        metrics: The last logged metrics, by name.
    """

    sources: dict[str, int]
    epochs: int
    steps: int
    metrics: dict[str, float]


def training_record(module: LightningModule) -> TrainingRecord | None:
    """The record of the run that trains a module; None outside of `fit`."""
    trainer: Trainer | None = module._trainer
    if trainer is None or trainer.state.fn != "fit":
        return None
    data = data_module_of(trainer)
    metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
    return TrainingRecord(
        sources=dict(data.training_sources) if isinstance(data, ProcessSupervisionData) else {},
        epochs=int(trainer.fit_loop.epoch_progress.current.completed),
        steps=int(trainer.global_step),
        metrics={name: value for name, value in metrics.items() if name.startswith(REPORTED) and math.isfinite(value)},
    )
