"""The norm of the gradient at every optimizer step, and the end of a run whose loss or gradient is not finite."""

from __future__ import annotations

import json
import math
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from datamodules.storage.files import atomic_write_text
from lightning_modules.callbacks.reporting import output_folder
from lightning_modules.distributed.gathering import gather_rows
from lightning_modules.distributed.gradient_norm import local_gradient, squared_norm_of_rank
from lightning_modules.training.non_finite import NonFiniteError

NAMED = 8
"""How many batches or parameters an error names; the file has all of them."""


@dataclass
class _Batch:
    """A batch of the window of batches that an optimizer step is made of.

    Attributes:
        batch_idx: Its number in the epoch, of its rank.
        sample_ids: What it holds; None where the batch does not say.
        loss: () what went into the backward; Lightning has divided it by the number of accumulated batches.
    """

    batch_idx: int
    sample_ids: list[str] | None
    loss: Tensor


class GradientMonitor(Callback):
    """Logs the norm of the gradient, and stops a run whose loss or gradient is NaN or infinite.

    ``train/gradient_norm`` is the Euclidean norm over all parameters and ranks, as the optimizer step finds it before
    clipping: of the accumulated gradient, once an optimizer step, right for DDP and for sharded weights.

    A loss that is not finite, on whichever rank, or a gradient that is not, raises :class:`NonFiniteError` on all ranks
    together, before the optimizer has changed a weight. The error names the samples of the offending batches, and
    ``non_finite_step{N}.json`` in the folder of the run has them with rank, loss, learning rates and norm, and all
    other batches of that step; values that JSON does not have are the texts ``nan``, ``inf`` and ``-inf``.

    Losses stay on the device until the optimizer steps: there two numbers are summed over ranks and read, the squared
    norm, and 0 times the sum of the losses, which is 0 or NaN. So ranks agree on whether to stop without asking each
    other twice, and accumulated batches are not held up one by one; what is computed in vain after a NaN is the rest of
    the window. With float16 and its loss scaling, gradients that overflow are usual, and the scaler leaves such steps
    out; then only losses stop a run.

    Losses of an evaluation are checked where they are summed, in
    :class:`lightning_modules.distributed.gathering.SampleMeans`.
    That ends the run, too; ``non_finite_{stage}_step{N}.json`` has the samples.

    The hook `on_before_optimizer_step` of callbacks comes before that of the module and before clipping. Whatever else
    changes the gradient must do so before (in `training_step` or `on_after_backward`) to be part of the norm.

    Args:
        stop_on_non_finite: Stop the run; if False, only log the norm.
    """

    def __init__(self, stop_on_non_finite: bool = True) -> None:
        self.stop_on_non_finite = stop_on_non_finite
        self._folder: Path | None = None
        self._batch: tuple[int, list[str] | None] = (-1, None)
        self._window: list[_Batch] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the folder of the run: asking for it later would need all ranks."""
        self._folder = output_folder(trainer, None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every epoch ends with a step, so begins with an empty window."""
        self._window.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the names of the batch."""
        self._batch = (batch_idx, getattr(batch, "sample_ids", None))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep its loss, on the device."""
        self._window.append(_Batch(*self._batch, loss.detach().float()))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norm, and look whether everything is finite.

        Raises:
            NonFiniteError: If it is not, on all ranks.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        found = torch.zeros(2, device=pl_module.device)
        found[0] = squared_norm_of_rank(parameters, trainer.world_size, pl_module.device)
        if self._window:
            found[1] = 0 * torch.stack([batch.loss for batch in self._window]).sum()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(found)
        if self.stop_on_non_finite:
            norm_square, no_loss_is_bad = found.tolist()
            has_loss_scaling = getattr(trainer.precision_plugin, "scaler", None) is not None
            if not (math.isfinite(no_loss_is_bad) and (has_loss_scaling or math.isfinite(norm_square))):
                self._stop(trainer, pl_module, optimizer, math.sqrt(norm_square))
        self._window.clear()
        pl_module.log("train/gradient_norm", found[0].sqrt(), batch_size=1)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the samples of an evaluation whose losses are not finite to a file; all ranks have the same."""
        stage = trainer.state.stage
        if not isinstance(exception, NonFiniteError) or not exception.losses or self._folder is None or stage is None:
            return
        path = self._folder / f"non_finite_{stage.value}_step{trainer.global_step}.json"
        if trainer.is_global_zero:
            losses = {sample_id: _json_number(loss) for sample_id, loss in exception.losses.items()}
            report = {"what": "loss", "stage": stage.value, "step": trainer.global_step, "losses": losses}
            atomic_write_text(path, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        exception.add_note(f"all samples whose loss is not finite are in {path}")

    def _stop(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, norm: float) -> None:
        rank, host = trainer.global_rank, socket.gethostname()
        batches = [
            {
                "rank": rank,
                "host": host,
                "batch": batch.batch_idx,
                "loss": _json_number(batch.loss.item()),
                "sample_ids": batch.sample_ids,
            }
            for batch in self._window
        ]
        mine: dict[str, Any] = {"rank": rank, "batches": batches, "parameters": _non_finite_parameters(pl_module)}
        ranks = gather_rows([mine], key=lambda row: row["rank"])
        window = [batch for each in ranks for batch in each["batches"]]
        offending = [batch for batch in window if isinstance(batch["loss"], str)]
        names = sorted({name for each in ranks for name in each["parameters"]})
        report = {
            "what": "loss" if offending else "gradient",
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "world_size": trainer.world_size,
            "learning_rates": [group["lr"] for group in optimizer.param_groups],
            "gradient_norm": _json_number(norm),
            "offending_batches": offending,
            "batches_of_the_step": window,
            "parameters_with_non_finite_gradients": names,
        }
        place = "fast_dev_run writes no file"
        if self._folder is not None:
            path = self._folder / f"non_finite_step{trainer.global_step}.json"
            if trainer.is_global_zero:
                atomic_write_text(path, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            place = f"all batches of the step, learning rates and parameters are in {path}"
        raise NonFiniteError(_message(report, place))


def _message(report: dict[str, Any], place: str) -> str:
    window, offending = report["batches_of_the_step"], report["offending_batches"]
    norm = report["gradient_norm"]
    if offending:
        what = f"the loss of {len(offending)} of {len(window)} batches is not finite"
    else:
        what = f"the gradient is not finite (norm {norm}), though the losses of all {len(window)} batches are"
    batches = "; ".join(
        f"rank {batch['rank']}, batch {batch['batch']}, loss {batch['loss']}, samples {_listed(batch['sample_ids'])}"
        for batch in (offending or window)[:NAMED]
    )
    return (
        f"optimizer step {report['step']} of epoch {report['epoch']}: {what}: {batches}. No weight was changed by it; "
        f"{place}. Look at these samples; lower the learning rate, clip gradients, or resume from an earlier checkpoint"
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
