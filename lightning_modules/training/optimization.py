"""Optimizer parameter groups and the warm-up cosine schedule that policy and reward model share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from lightning_modules.model.families import part_of

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
DEFAULT_WARMUP_RATIO = 0.05
# LayerNorm, Qwen2RMSNorm, BatchNorm2d, ...: the classes of a model family have no common base.
_NORM = re.compile(r"Norm([123]d|Gated)?$")


def is_decayed(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter ``name`` of ``module`` itself (not of its children).

    As in the `transformers` trainer, with which InternVL and VisualPRM were trained, it applies to embeddings, but not
    to biases and parameters of norms. Here it does not apply to single vectors either (layer scales, class embeddings
    of the vision tower, separators).
    """
    if name == "bias" or name.endswith("_bias") or _NORM.search(type(module).__name__):
        return False
    if isinstance(module, (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)):
        return True
    return sum(size > 1 for size in parameter.shape) >= 2


def parameter_groups(
    module: nn.Module, weight_decay: float, multipliers: Mapping[int, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and decay.

    Args:
        module: The module with the parameters.
        weight_decay: Weight decay of the parameters to which :func:`is_decayed` applies it.
        multipliers: Multipliers of the learning rate, by `id` of the parameter; 1 for all others.

    Returns:
        Non-empty groups with ``params``, ``weight_decay`` and ``multiplier``; decayed groups come first.

    Raises:
        ValueError: If nothing is trainable.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                key = ((multipliers or {}).get(id(parameter), 1.0), is_decayed(owner, name, parameter))
                groups.setdefault(key, []).append(parameter)
    if not groups:
        raise ValueError("nothing is left to train: all parameters are frozen")
    return [
        {"params": groups[key], "weight_decay": weight_decay if key[1] else 0.0, "multiplier": key[0]}
        for key in sorted(groups, key=lambda key: (key[0] != 1.0, key[0], not key[1]))
    ]


def learning_rate_multipliers(module: nn.Module, head: float, vision: float) -> dict[int, float]:
    """Multipliers of a module's step head (``module.head``) and of its vision tower, by `id` of the parameter."""
    found: dict[int, float] = {}
    if head != 1:
        found |= {id(parameter): head for parameter in cast(nn.Module, module.head).parameters()}
    if vision != 1:
        backbone = cast(PreTrainedModel, module.backbone)
        parts = part_of(backbone)
        tower = [p for name, p in backbone.named_parameters() if parts[name] == "vision"]
        if not any(parameter.requires_grad for parameter in tower):
            rank_zero_warn(f"vision_learning_rate_multiplier {vision} changes nothing: no vision weight is trained")
        found |= {id(parameter): vision for parameter in tower}
    return found


def require_optimization(
    *,
    learning_rate: float,
    weight_decay: float,
    warmup_ratio: float,
    head_learning_rate_multiplier: float = 1.0,
    vision_learning_rate_multiplier: float = 1.0,
) -> None:
    """Refuse settings of :func:`configure_warmup_cosine` that are out of range, before anything is loaded.

    An optimizer checks its learning rate when it is made, but the schedule sets it afterwards: a negative one would
    train away from the labels without a word.

    Raises:
        ValueError: That names the first one and its value.
    """
    for name, value in (
        ("learning_rate", learning_rate),
        ("head_learning_rate_multiplier", head_learning_rate_multiplier),
        ("vision_learning_rate_multiplier", vision_learning_rate_multiplier),
    ):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value}; freeze what is not to be trained")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    if not 0 <= warmup_ratio < 1:
        raise ValueError(f"warmup_ratio must be in [0, 1), the share of the steps that warm up, got {warmup_ratio}")


def warmup_cosine_factor(step: int, total_steps: int, warmup_ratio: float) -> float:
    """Learning-rate factor: linear from near 0 to 1 over the warm-up, then half a cosine down to 0.

    Args:
        step: Optimizer steps taken, from 0.
        total_steps: Optimizer steps of the whole run.
        warmup_ratio: Fraction of the run that warms up, in [0, 1).
    """
    warmup_steps = round(total_steps * warmup_ratio)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def can_be_fused(groups: list[dict[str, Any]], scaler: object) -> bool:
    """Whether AdamW can use its fused kernel, which takes a fifth of the time on a CPU.

    It cannot be used for sharded weights, because the kernel does not mix them with others. On a CPU it ignores the
    strides of weights that are not contiguous. With a gradient scaler it would unscale gradients after they have been
    clipped.

    Args:
        groups: See :func:`parameter_groups`.
        scaler: Gradient scaler of the precision (`16-mixed` has one), or None.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    is_plain = all(type(p) is nn.Parameter and p.is_floating_point() and p.is_contiguous() for p in parameters)
    devices = {parameter.device.type for parameter in parameters}
    return scaler is None and is_plain and devices <= {"cpu", "cuda"}


def _adamw(groups: list[dict[str, Any]], module: LightningModule) -> torch.optim.AdamW:
    is_fused = can_be_fused(groups, getattr(module.trainer.precision_plugin, "scaler", None)) or None
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=is_fused)

    def with_own(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return state | {"param_groups": [group | {"fused": is_fused} for group in state["param_groups"]]}

    # A checkpoint of a run with another strategy or precision holds the choice of that run.
    optimizer.register_load_state_dict_pre_hook(with_own)
    return optimizer


def _made(factory: OptimizerFactory, groups: list[dict[str, Any]]) -> Optimizer:
    try:
        return factory(groups)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"optimizer: {error}; give other settings, or another optimizer") from error


def configure_warmup_cosine(
    module: LightningModule,
    optimizer_factory: OptimizerFactory | None,
    *,
    learning_rate: float,
    weight_decay: float,
    warmup_ratio: float,
    head_learning_rate_multiplier: float = 1.0,
    vision_learning_rate_multiplier: float = 1.0,
) -> OptimizerLRSchedulerConfig:
    """The result of `configure_optimizers`: AdamW, or another optimizer, with linear warm-up and cosine decay per step.

    The paper (section 4.1) uses AdamW with betas (0.9, 0.999), weight decay 0.05, learning rate 1e-5 and 5 % linear
    warm-up.

    Args:
        module: The module with the trainable parameters.
        optimizer_factory: Takes parameter groups; None is AdamW. A learning rate set in it is overridden.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay of matrices and embeddings; see :func:`is_decayed`.
        warmup_ratio: See :func:`warmup_cosine_factor`.
        head_learning_rate_multiplier: Learning rate of the step head relative to ``learning_rate``.
        vision_learning_rate_multiplier: Learning rate of the vision tower, without the projector, relative to
            ``learning_rate``.

    Raises:
        ValueError: If a setting is out of range, or the optimizer refuses its own.
    """
    require_optimization(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_ratio=warmup_ratio,
        head_learning_rate_multiplier=head_learning_rate_multiplier,
        vision_learning_rate_multiplier=vision_learning_rate_multiplier,
    )
    multipliers = learning_rate_multipliers(module, head_learning_rate_multiplier, vision_learning_rate_multiplier)
    groups = parameter_groups(module, weight_decay, multipliers)
    optimizer = _made(optimizer_factory, groups) if optimizer_factory else _adamw(groups, module)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["multiplier"]
    total_steps = module.trainer.estimated_stepping_batches
    if math.isinf(total_steps):
        raise ValueError(
            "the learning rate falls to 0 at the last step, so give trainer.max_steps or trainer.max_epochs"
        )
    total_steps = int(total_steps)
    schedule = LambdaLR(optimizer, partial(warmup_cosine_factor, total_steps=total_steps, warmup_ratio=warmup_ratio))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
