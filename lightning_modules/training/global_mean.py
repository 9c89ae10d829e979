"""The loss as a mean over the labels of the global batch: of all ranks and of all micro-batches of an optimizer step.

Ranks and micro-batches have different numbers of labels, and the last accumulation window of an epoch may have fewer
micro-batches. So a mean of their means is another loss, whose gradient depends on which rank has which sample. When the
first micro-batch goes backward, the number of labels of the later ones is not known. Therefore each micro-batch goes
backward with the sum of its losses. Once per optimizer step, before clipping and logging, the gradients are divided by
the number of labels of all micro-batches and ranks. It costs one all-reduce of a few numbers.

A loss of several terms must divide all of them by the same number of labels, because their gradients are added up.
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
    """A module whose loss is a mean over the labels of the global batch.

    Its `training_step` returns the result of :meth:`sum_of_labels`. Gradients are already divided when
    `on_before_optimizer_step` is called and when they are clipped, with every strategy. The clipped norm is that of the
    whole gradient, also if weights are sharded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._window: dict[str, Tensor] = {}
        self._labels_of_epoch: Tensor | None = None

    def sum_of_labels(self, total: Tensor, weight: Tensor, **logged: Tensor) -> Tensor:
        """The return value of `training_step` for a micro-batch: the sum of its losses.

        Args:
            total: Sum of the losses, a scalar with gradient.
            weight: Number, or summed weight, of the labels. The sum over the global batch divides the loss.
            **logged: Further sums. They are divided by the same number and logged as ``train/<name>`` once per
                optimizer step: ``loss``, and others.

        Returns:
            ``total``. Lightning divides it by the number of accumulated micro-batches for `outputs["loss"]`.
        """
        sums = {"weight": weight, **logged}
        for name, value in sums.items():
            found = value.detach().float()
            self._window[name] = self._window[name] + found if name in self._window else found
        return total

    def on_fit_start(self) -> None:
        """Reset the sums, which an interrupted run may have left."""
        self._window = {}
        self._labels_of_epoch = None

    def on_train_epoch_end(self) -> None:
        """Refuse an epoch that has taught nothing.

        Raises:
            ValueError: If none of its steps had a label on any rank. Of an epoch that was resumed that is not known.
        """
        labels, self._labels_of_epoch = self._labels_of_epoch, None
        if labels is not None and labels == 0:
            raise ValueError(
                f"epoch {self.current_epoch} had no label, so its loss was 0 at every step and nothing was learned; "
                "give rows with what the objective compares (advantage: question_accuracy, or several steps)"
            )

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Divide the gradients between backward and optimizer step."""

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
        self._count_labels(weight)
        # If the global batch has no label, all gradients are 0.
        weight = torch.where(weight > 0, weight, 1)
        # The strategy has averaged over ranks and Lightning over micro-batches; both are undone.
        scale = trainer.world_size * trainer.accumulate_grad_batches / weight
        multiply_gradients(self.parameters(), scale)
        for name, total in zip(names[1:], totals, strict=True):
            self.log(f"train/{name}", total / weight, prog_bar=name == "loss")

    def _count_labels(self, weight: Tensor) -> None:
        """Add those of an optimizer step, if this process has begun the epoch; a resumed run knows only its end."""
        if self._labels_of_epoch is not None:
            self._labels_of_epoch = self._labels_of_epoch + weight
        elif self.trainer.fit_loop.epoch_loop.batch_idx < self.trainer.accumulate_grad_batches:
            self._labels_of_epoch = weight

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of the whole gradient if weights are sharded; otherwise as Lightning does."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm") and is_sharded(self):
            clip_gradient_norm(self.parameters(), float(gradient_clip_val))
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
