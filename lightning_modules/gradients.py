"""Gradients of a whole model, whose weights may be sharded in one or several ways, or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Those that there are."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def multiply_gradients(parameters: Iterable[nn.Parameter], factor: Tensor) -> None:
    """Multiply all gradients, in place, by a number on any device."""
    by_device: defaultdict[torch.device, list[Tensor]] = defaultdict(list)
    for gradient in gradients_of(parameters):
        mine = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        by_device[mine.device].append(mine)
    for device, gradients in by_device.items():
        torch._foreach_mul_(gradients, factor.to(device))


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of the gradient of all parameters together, a scalar, the same on all ranks.

    Where weights are sharded, all ranks must call it together. Gradients that are sharded in different ways, and such
    that every rank has whole, may be mixed; shards may be kept in main memory.
    """
    ways: defaultdict[object, list[Tensor]] = defaultdict(list)
    for gradient in gradients_of(parameters):
        way = (gradient.device_mesh, gradient.placements) if isinstance(gradient, DTensor) else None
        ways[way, gradient.dtype].append(gradient)
    norms = [_whole(get_total_norm(gradients)).float() for gradients in ways.values()]
    if not norms:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def _whole(norm: Tensor) -> Tensor:
    if not isinstance(norm, DTensor):
        return norm
    # Ranks add up on their devices: the process group may not know how to do it in main memory.
    return DTensor.full_tensor(norm.to(norm.device_mesh.device_type))  # type: ignore[arg-type]


def clip_gradient_norm(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients down, in place, so that :func:`gradient_norm` is at most ``most``; returns it as it was."""
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    # As in torch.nn.utils.clip_grad_norm_, so that strategies agree.
    multiply_gradients(parameters, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm
