"""Logs the gradient norm at every optimizer step, and stops a run whose loss or gradient is not finite."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from datamodules.storage.files import atomic_write_text
from lightning_modules.callbacks.reporting import output_folder
from lightning_modules.distributed.gathering import gather_rows
from lightning_modules.distributed.gradients import gradient_norm, local_gradient
from lightning_modules.training.non_finite import NonFiniteError

NAMED = 8
"""Number of batches that an error names; the file has all of them."""


class GradientMonitor(Callback):
    """Logs the norm of the gradient, and stops a run whose loss or gradient is NaN or infinite.

    ``train/gradient_norm`` is the Euclidean norm of the accumulated gradient over all parameters and ranks, before
    clipping, once per optimizer step.

    If a loss or gradient of any rank is not finite, all ranks raise the same :class:`NonFiniteError`, before the
    optimizer changes a weight. The error names the samples of the offending batches. ``non_finite_step{N}.json`` in the
    folder of the run holds them with rank, loss, learning rates and norm, and all other batches of that step. Values
    that JSON does not have are the texts ``nan``, ``inf`` and ``-inf``.

    Losses stay on the device until the optimizer step. Then 0 times their sum, which is 0 or NaN, is summed over ranks
    and read together with the norm. With the loss scaling of float16, gradients may overflow, and the scaler skips such
    steps. Then only losses stop a run.

    Losses of an evaluation are checked by :class:`lightning_modules.distributed.gathering.SampleMeans`. That stops the
    run, too, and ``non_finite_{stage}_step{N}.json`` holds the samples.

    This hook (`on_before_optimizer_step` of callbacks) runs before that of the module and before clipping. Code that
    changes gradients must do so earlier, in `training_step` or `on_after_backward`, to be part of the norm.

    Args:
        stop_on_non_finite: Stop the run; if False, only log the norm.
    """

    def __init__(self, stop_on_non_finite: bool = True) -> None:
        self.stop_on_non_finite = stop_on_non_finite
        self._folder: Path | None = None
        self._batch: tuple[int, list[str] | None] = (-1, None)
        # Number, sample ids and loss of the micro-batches of an optimizer step. Lightning has divided the losses by the
        # number of accumulated micro-batches.
        self._window: list[tuple[int, list[str] | None, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Store the folder of the run; finding it later would need all ranks."""
        self._folder = output_folder(trainer, None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with an empty window; an interrupted run may have left one."""
        self._window.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Store the sample ids of the batch."""
        self._batch = (batch_idx, getattr(batch, "sample_ids", None))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Store its loss, on the device."""
        self._window.append((*self._batch, loss.detach().float()))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norm, and check that it and the losses are finite.

        Raises:
            NonFiniteError: On all ranks, if they are not.
        """
        norm = gradient_norm(p for group in optimizer.param_groups for p in group["params"]).to(pl_module.device)
        if self.stop_on_non_finite:
            losses = 0 * torch.stack([torch.zeros_like(norm), *(loss for *_, loss in self._window)]).sum()
            found = [norm.item(), trainer.strategy.reduce(losses, reduce_op="sum").item()]
            has_loss_scaling = getattr(trainer.precision_plugin, "scaler", None) is not None
            if not (math.isfinite(found[1]) and (has_loss_scaling or math.isfinite(found[0]))):
                self._stop(trainer, pl_module, optimizer, found[0])
        self._window.clear()
        pl_module.log("train/gradient_norm", norm, batch_size=1)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write a file with the samples of an evaluation whose losses are not finite."""
        stage = trainer.state.stage
        if isinstance(exception, NonFiniteError) and exception.losses and stage is not None:
            losses = {sample_id: _json_number(loss) for sample_id, loss in exception.losses.items()}
            report = {"what": "loss", "stage": stage.value, "step": trainer.global_step, "losses": losses}
            if path := self._write(trainer, f"non_finite_{stage.value}_step{trainer.global_step}.json", report):
                exception.add_note(f"all samples whose loss is not finite are in {path}")

    def _write(self, trainer: Trainer, name: str, report: dict[str, Any]) -> Path | None:
        if self._folder is not None and trainer.is_global_zero:
            text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
            atomic_write_text(self._folder / name, text + "\n")
        return None if self._folder is None else self._folder / name

    def _stop(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, norm: float) -> None:
        place = {"rank": trainer.global_rank, "host": socket.gethostname()}
        batches = [
            {**place, "batch": number, "loss": _json_number(loss.item()), "sample_ids": sample_ids}
            for number, sample_ids, loss in self._window
        ]
        mine: dict[str, Any] = {**place, "batches": batches, "parameters": _non_finite_parameters(pl_module)}
        ranks = gather_rows([mine], key=lambda row: row["rank"])
        window = [batch for each in ranks for batch in each["batches"]]
        offending = [batch for batch in window if isinstance(batch["loss"], str)]
        report = {
            "what": "loss" if offending else "gradient",
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "world_size": trainer.world_size,
            "learning_rates": [group["lr"] for group in optimizer.param_groups],
            "gradient_norm": _json_number(norm),
            "offending_batches": offending,
            "batches_of_the_step": window,
            "parameters_with_non_finite_gradients": sorted({name for each in ranks for name in each["parameters"]}),
        }
        path = self._write(trainer, f"non_finite_step{trainer.global_step}.json", report)
        if offending:
            what = f"the loss of {len(offending)} of {len(window)} batches is not finite"
        else:
            what = f"the gradient is not finite (norm {norm}), though the losses of all {len(window)} batches are"
        named = "; ".join(
            f"rank {each['rank']}, batch {each['batch']}, loss {each['loss']}, samples {_listed(each['sample_ids'])}"
            for each in (offending or window)[:NAMED]
        )
        all_of_it = f"all batches of the step, learning rates and parameters are in {path}"
        raise NonFiniteError(
            f"optimizer step {trainer.global_step} of epoch {trainer.current_epoch}: {what}: {named}. No weight was "
            f"changed by it; {all_of_it if path else 'fast_dev_run writes no file'}. Look at these samples; lower the "
            f"learning rate, clip gradients, or resume from an earlier checkpoint"
        )


def _listed(sample_ids: list[str] | None) -> str:
    return "unknown (the batch has no sample_ids)" if sample_ids is None else ", ".join(map(str, sample_ids))


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _non_finite_parameters(module: LightningModule) -> list[str]:
    """Names of the parameters whose gradient, or this rank's shard of it, is not finite."""
    return [
        name
        for name, parameter in module.named_parameters()
        if (gradient := local_gradient(parameter)) is not None and not bool(gradient.isfinite().all())
    ]
