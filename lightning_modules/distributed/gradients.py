"""Norm and scaling of the gradients of a model whose weights may be sharded, all or some of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def local_gradient(parameter: Tensor) -> Tensor | None:
    """The gradient of a parameter on this rank, or its shard of it; None without a gradient."""
    gradient = parameter.grad
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters with a gradient, by device mesh: PyTorch refuses to mix meshes, and DTensors with other tensors."""
    found: defaultdict[DeviceMesh | None, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        if (gradient := parameter.grad) is not None:
            found[gradient.device_mesh if isinstance(gradient, DTensor) else None].append(parameter)
    return list(found.values())


@torch.no_grad()
def multiply_gradients(parameters: Iterable[nn.Parameter], factor: Tensor) -> None:
    """Multiply all gradients, in place, by a number on any device."""
    by_device: defaultdict[torch.device, list[Tensor]] = defaultdict(list)  # shards may be kept in main memory
    for parameter in parameters:
        if (mine := local_gradient(parameter)) is not None:
            by_device[mine.device].append(mine)
    for device, gradients in by_device.items():
        torch._foreach_mul_(gradients, factor.to(device))


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of the gradient of all parameters together, a scalar, equal on all ranks.

    If gradients are sharded, all ranks must call it together. Gradients that are not sharded must be equal on all
    ranks, as they are with DDP. It does not wait for the device.
    """
    norms = [get_total_norm([p.grad for p in group if p.grad is not None]) for group in _by_mesh(parameters)]
    return get_total_norm([_whole(norm).float() for norm in norms])


def _whole(norm: Tensor) -> Tensor:
    if not isinstance(norm, DTensor):
        return norm
    # Shards may be in main memory, where NCCL cannot reduce.
    mine = norm.to_local().to(norm.device_mesh.device_type)
    return DTensor.from_local(mine, norm.device_mesh, norm.placements, run_check=False).full_tensor()


@torch.no_grad()
def clip_gradient_norm(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients in place so that :func:`gradient_norm` is at most ``most``; returns the norm before."""
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    for group in _by_mesh(parameters):
        clip_grads_with_norm_(group, most, norm)
    return norm
