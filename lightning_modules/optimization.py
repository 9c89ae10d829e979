"""Optimizer parameter groups and the warm-up cosine schedule that policy and reward model share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay, vectors (norms, biases, scales) do not."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def warmup_cosine_factor(step: int, total_steps: int, warmup_share: float) -> float:
    """Learning-rate factor: linear from near 0 to 1 over the warm-up, then half a cosine down to 0.

    Args:
        step: Optimizer steps taken, from 0.
        total_steps: Of the whole run.
        warmup_share: Share of the run that warms up, in [0, 1).
    """
    warmup_steps = round(total_steps * warmup_share)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def configure_warmup_cosine(
    module: LightningModule,
    optimizer_factory: OptimizerFactory | None,
    *,
    learning_rate: float,
    weight_decay: float,
    warmup_share: float,
) -> OptimizerLRSchedulerConfig:
    """What `configure_optimizers` returns: AdamW (or the given optimizer) under a per-step warm-up cosine schedule.

    The defaults of the paper (section 4.1): AdamW with betas (0.9, 0.999), weight decay 0.05, learning rate 1e-5, 5 %
    linear warm-up.

    Args:
        module: Whose trainable parameters to optimize.
        optimizer_factory: Takes parameter groups; None is AdamW. A learning rate set in it is overridden.
        learning_rate: Peak learning rate.
        weight_decay: Of matrices.
        warmup_share: See :func:`warmup_cosine_factor`.
    """
    factory = optimizer_factory or partial(torch.optim.AdamW, betas=(0.9, 0.999))
    optimizer = factory(parameter_groups(module, weight_decay))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    total_steps = int(module.trainer.estimated_stepping_batches)
    schedule = LambdaLR(optimizer, partial(warmup_cosine_factor, total_steps=total_steps, warmup_share=warmup_share))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
