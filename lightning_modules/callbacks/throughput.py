"""Training speed."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.callbacks.reporting import log_scalars


class Throughput(Callback):
    """Logs samples and tokens per second of training, summed over ranks, every ``log_every_n_steps`` batches.

    Batches must have ``sample_ids`` (B) and ``inputs["attention_mask"]`` (B, L); padding is not counted. The time
    includes waiting for data and leaves validation out. Tokens are counted on the device and read once a window, so
    that the callback does not hold the device up at every step.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._tokens: Tensor | None = None
        self._batches = 0
        self._seconds = 0.0
        self._running_since: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock while training waits for validation."""
        if self._running_since is not None:
            self._seconds += time.perf_counter() - self._running_since
            self._running_since = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on when training does."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._running_since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and log when the window is full."""
        tokens = batch.inputs["attention_mask"].sum()
        self._tokens = tokens if self._tokens is None else self._tokens + tokens
        self._samples += len(batch.sample_ids)
        self._batches += 1
        if trainer.log_every_n_steps and self._batches >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last window, however short."""
        if self._batches:
            self._log(trainer, pl_module)
        self._running_since = None

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts = torch.tensor([self._samples, int(self._tokens or 0)], dtype=torch.float32, device=pl_module.device)
        counts = trainer.strategy.reduce(counts, reduce_op="sum")
        if self._running_since is not None:
            self._seconds += time.perf_counter() - self._running_since
        samples, tokens = counts.tolist()
        log_scalars(
            trainer,
            {
                "throughput/samples_per_second": samples / self._seconds,
                "throughput/tokens_per_second": tokens / self._seconds,
            },
        )
        self._reset()

    def _reset(self) -> None:
        self._samples, self._tokens, self._batches, self._seconds = 0, None, 0, 0.0
        self._running_since = time.perf_counter()
