"""Learns how much each source of the training rows counts, from the process validation split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.batching.collate import StepBatch
from datamodules.batching.ranks import of_all_ranks
from datamodules.interfaces import EvaluationData, data_module_of
from datamodules.storage.files import atomic_write_text
from datamodules.supervision.splits import PROCESS
from lightning_modules.callbacks.reporting import log_scalars, output_folder
from lightning_modules.distributed.sharding import is_sharded
from lightning_modules.process_reward import ProcessRewardModel
from lightning_modules.training.source_weights import SourceWeights, agreement, head_gradients

WEIGHTS_FILE = "source_weights.json"


class LearnSourceWeights(Callback):
    """Weights training samples by their source, and moves the weights as the validation loss asks for.

    Every ``every_n_steps`` batches the gradients of the step head are computed for each source of the batch and for a
    batch of the process validation split. A source whose gradient points where that of the validation points counts
    more from then on. It costs two more forwards without gradients. All ranks have the same weights. Loggers get
    ``source_weights/<source>``; checkpoints hold the weights, and ``source_weights.json`` has them at the end of `fit`,
    for ``weight`` of the data module's ``sources``.

    The split that weights are learnt on is no longer held out: report on another one.

    Args:
        every_n_steps: Batches from one update to the next.
        rate: Of an update: the weight is multiplied by exp(rate * cosine of the angle between both gradients).
        least: Least weight; the mean of all sources is 1.
        most: Greatest weight.
        output_dir: Folder for the file; the logger's by default.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        every_n_steps: int = 5,
        rate: float = 0.3,
        least: float = 0.1,
        most: float = 4.0,
        output_dir: str | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if not 0 < rate < float("inf"):
            raise ValueError(f"rate must be above 0, got {rate}")
        if not 0 < least <= 1 <= most < float("inf"):
            raise ValueError(f"least and most must be above 0 with 1 between them, got {least} and {most}")
        self.every_n_steps, self.output_dir = every_n_steps, output_dir
        self.learnt = SourceWeights(rate, (least, most))
        self._validation: Iterator[Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there are a reward model with whole weights and a process validation split.

        Raises:
            ValueError: If not.
        """
        data = data_module_of(trainer)
        if not isinstance(pl_module, ProcessRewardModel) or is_sharded(pl_module):
            raise ValueError("LearnSourceWeights needs a ProcessRewardModel whose weights are not sharded")
        if pl_module.step_loss.options.averaging != "step":
            raise ValueError(
                "LearnSourceWeights needs loss.averaging: step; in a mean over each sample its weight cancels"
            )
        if not isinstance(data, EvaluationData) or PROCESS not in data.validation_names:
            raise ValueError(
                "LearnSourceWeights needs a process validation split to learn on; give the data module "
                "validation_annotations or validation_fraction"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Weight the samples of the batch, after an update if one is due."""
        if not isinstance(batch, StepBatch):
            return
        if batch_idx % self.every_n_steps == 0:
            self._update(trainer, pl_module, batch)
        weights = self.learnt.of(batch.sources).to(batch.step_positions.device)
        batch.weigh_steps(weights[:, None].expand(batch.step_positions.shape))

    def _update(self, trainer: Trainer, module: ProcessRewardModel, batch: StepBatch) -> None:
        was_training = module.training
        module.eval()
        held_out = trainer.strategy.batch_to_device(self._next_validation_batch(trainer))
        with trainer.precision_plugin.forward_context():
            own = head_gradients(module, batch, by_source=True), head_gradients(module, held_out, by_source=False)
        module.train(was_training)
        sums: dict[str, torch.Tensor] = {}
        target: torch.Tensor | None = None
        for by_source, of_validation in of_all_ranks(own):
            for name, (gradient, _) in by_source.items():
                sums[name] = sums[name] + gradient if name in sums else gradient
            gradient, _ = of_validation[""]
            target = gradient if target is None else target + gradient
        assert target is not None
        self.learnt.update({name: agreement(gradient, target) for name, gradient in sums.items()})
        log_scalars(trainer, {f"source_weights/{name}": value for name, value in self.learnt.weights.items()})

    def _next_validation_batch(self, trainer: Trainer) -> Any:
        """The batches of the split, one after the other and over again."""
        while True:
            if self._validation is None:
                data: Any = data_module_of(trainer)
                self._validation = iter(data.val_dataloader()[data.validation_names.index(PROCESS)])
            found = next(self._validation, None)
            if found is not None:
                return found
            self._validation = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights."""
        folder = output_folder(trainer, self.output_dir)
        if trainer.is_global_zero and folder is not None:
            atomic_write_text(folder / WEIGHTS_FILE, json.dumps(self.learnt.weights, indent=2) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """The weights, for checkpoints; a run that goes on takes the batches of the split from the first one again."""
        return {"weights": dict(self.learnt.weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the weights of a checkpoint."""
        self.learnt.weights = dict(state_dict["weights"])
