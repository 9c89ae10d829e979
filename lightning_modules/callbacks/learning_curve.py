"""Validation several times an epoch, the last time at its end."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer


class LearningCurve(Callback):
    """Validates after equal parts of each epoch, so that curves of validation metrics have several points.

    ``trainer.val_check_interval`` counts from the start of an epoch, so with most numbers of batches its last
    validation is some batches before the end. Here the last one is at the end. Replaces that interval.

    Args:
        validations_per_epoch: Number of validations; not more than an epoch has batches.

    Raises:
        ValueError: If it is not at least 1.
    """

    def __init__(self, validations_per_epoch: int = 3) -> None:
        if validations_per_epoch < 1:
            raise ValueError(f"validations_per_epoch must be at least 1, got {validations_per_epoch}")
        self.validations_per_epoch = validations_per_epoch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a trainer that counts the batches of all epochs together.

        Raises:
            ValueError: If it does.
        """
        if stage == "fit" and trainer.check_val_every_n_epoch is None:
            raise ValueError("LearningCurve counts within epochs; leave trainer.check_val_every_n_epoch at a number")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say after how many batches this is, also where a killed run goes on within a validation: reports ask."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
            trainer.val_check_batch = done.ready

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell the trainer, which asks after this hook, whether to validate now."""
        batches, done = int(trainer.num_training_batches), batch_idx + 1
        ends = {-(-part * batches // self.validations_per_epoch) for part in range(1, self.validations_per_epoch + 1)}
        # It validates where the number of batches is a multiple of this.
        trainer.val_check_batch = done if done in ends else batches + 1
