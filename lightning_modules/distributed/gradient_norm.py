"""The Euclidean norm of a gradient that is spread over ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate


def local_gradient(parameter: Tensor) -> Tensor | None:
    """What this rank holds of the gradient of a parameter: all of it, or its shard; None without a gradient."""
    gradient = parameter.grad
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def squared_norm_of_rank(parameters: Iterable[Tensor], world_size: int, device: torch.device) -> Tensor:
    """This rank's part of the squared norm: summed over all ranks it is that of the whole gradient.

    What several ranks hold alike counts once: gradients outside of any sharding are the same on every rank (DDP has
    averaged them), and in hybrid sharding each shard is there once a replica. Nothing is communicated, and the device
    is not waited for.

    Args:
        parameters: Those without a gradient are passed over.
        world_size: Number of ranks.
        device: Of the result.

    Returns:
        A float32 number, as exact for gradients in bfloat16.

    Raises:
        ValueError: If a gradient has not been reduced over its mesh.
    """
    squares: defaultdict[torch.device, list[Tensor]] = defaultdict(list)  # shards may be kept in main memory
    for parameter in parameters:
        if (local := local_gradient(parameter)) is not None:
            square = torch.linalg.vector_norm(local.detach(), dtype=torch.float32).square()
            squares[local.device].append(square / _holders(parameter.grad, world_size))
    sums = [torch.stack(of_device).sum().to(device) for of_device in squares.values()]
    return torch.stack(sums).sum() if sums else torch.zeros((), device=device)


def _holders(gradient: Tensor | None, world_size: int) -> float:
    """On how many ranks the same part of a gradient is."""
    if not isinstance(gradient, DTensor):
        return world_size
    shards = 1
    for dimension, placement in enumerate(gradient.placements):
        if isinstance(placement, Partial):
            raise ValueError(f"a gradient of shape {tuple(gradient.shape)} is not reduced: {gradient.placements}")
        if not isinstance(placement, Replicate):
            shards *= gradient.device_mesh.size(dimension)
    return world_size / shards
