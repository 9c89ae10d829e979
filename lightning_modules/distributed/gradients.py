"""Gradients of a whole model, whose weights may be sharded in one or several ways, or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_modules.distributed.gradient_norm import local_gradient, squared_norm_of_rank


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Those that there are."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def multiply_gradients(parameters: Iterable[nn.Parameter], factor: Tensor) -> None:
    """Multiply all gradients, in place, by a number on any device."""
    by_device: defaultdict[torch.device, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if (mine := local_gradient(parameter)) is not None:
            by_device[mine.device].append(mine)
    for device, gradients in by_device.items():
        torch._foreach_mul_(gradients, factor.to(device))


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of the gradient of all parameters together, a scalar, the same on all ranks.

    In a distributed run all ranks must call it together. Gradients that are sharded in different ways, and such that
    every rank has whole, may be mixed; shards may be kept in main memory.
    """
    parameters = list(parameters)
    is_distributed = dist.is_available() and dist.is_initialized()
    square = squared_norm_of_rank(parameters, dist.get_world_size() if is_distributed else 1, _device_of(parameters))
    if is_distributed:
        dist.all_reduce(square)
    return square.sqrt()


def _device_of(parameters: Iterable[nn.Parameter]) -> torch.device:
    """Where ranks can add up: the process group may not know how to do it in main memory."""
    for gradient in gradients_of(parameters):
        return torch.device(gradient.device_mesh.device_type) if isinstance(gradient, DTensor) else gradient.device
    return torch.device("cpu")


def clip_gradient_norm(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients down, in place, so that :func:`gradient_norm` is at most ``most``; returns it as it was."""
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    # As in torch.nn.utils.clip_grad_norm_, so that strategies agree.
    multiply_gradients(parameters, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm
