"""Training on the mean over the labels of the global batch: of all ranks, and of all batches accumulated to a step.

Neither ranks nor accumulated batches have equally many labels (and the last window of an epoch may have fewer batches),
so a mean of their means is another loss, whose gradient depends on how samples were dealt out. How many labels the
later batches of a window have is not known when the first one goes backward. So each batch goes backward with the sum
of its losses, and once a step, before anybody looks at the gradients, these are divided by the number of labels of all
batches and ranks, which costs one sum over ranks of a few numbers.

A loss of several terms needs one number of labels for all of them, as gradients are in one sum by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.distributed.gradients import clip_gradient_norm, multiply_gradients
from lightning_modules.distributed.sharding import is_sharded


class GlobalMeanModule(LightningModule):
    """A module whose optimizer steps follow the gradient of a mean over the labels of the global batch.

    Its `training_step` returns what :meth:`sum_of_labels` gives. Gradients are means when `on_before_optimizer_step` is
    called and when they are clipped, whatever the strategy; the norm that is clipped is that of the whole gradient,
    also of sharded weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._window: dict[str, Tensor] = {}

    def sum_of_labels(self, total: Tensor, weight: Tensor, **logged: Tensor) -> Tensor:
        """What `training_step` returns for a batch: its loss, not divided by anything.

        Args:
            total: Sum of the losses of the batch, a scalar with gradient.
            weight: What it is to be divided by, summed over the global batch: the number, or weight, of the labels.
            **logged: More sums, divided by the same and logged as ``train/<name>`` once a step: ``loss``, and others.

        Returns:
            The total; Lightning's `outputs["loss"]` is its share of an accumulated step.
        """
        sums = {"weight": weight, **logged}
        for name, value in sums.items():
            found = value.detach().float()
            self._window[name] = self._window[name] + found if name in self._window else found
        return total

    def on_fit_start(self) -> None:
        """Forget what an interrupted run left."""
        self._window = {}

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step with gradients of the mean over the global batch."""

        def closure() -> Any:
            result = optimizer_closure() if optimizer_closure is not None else None
            self._divide_gradients()
            return result

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def _divide_gradients(self) -> None:
        trainer, names = self.trainer, list(self._window)
        if not names:
            return
        sums = trainer.strategy.reduce(torch.stack([self._window[name] for name in names]), reduce_op="sum")
        self._window = {}
        weight, *totals = sums.unbind()
        # Without a label in all of the global batch there is no gradient.
        weight = torch.where(weight > 0, weight, 1)
        # Strategies have averaged over ranks and Lightning over batches; both is undone.
        scale = trainer.world_size * trainer.accumulate_grad_batches / weight
        multiply_gradients(self.parameters(), scale)
        for name, total in zip(names[1:], totals, strict=True):
            self.log(f"train/{name}", total / weight, prog_bar=name == "loss")

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of the whole gradient where weights are sharded, and as Lightning does elsewhere."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm") and is_sharded(self):
            clip_gradient_norm(self.parameters(), float(gradient_clip_val))
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
