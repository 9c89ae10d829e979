"""The random numbers of training: saved with a checkpoint, and drawn afresh where the number of processes changes."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of all generators that training may draw from, as plain values.

    Args:
        device: Of this process; its generator is included if it is a CUDA device.
    """
    name, keys, place, has_normal, normal = np.random.get_state()
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_normal, normal],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Put the generators back to where they stood."""
    version, keys, normal = states["python"]
    random.setstate((version, tuple(keys), normal))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def seed_from(step: int, rank: int) -> None:
    """Seed all generators from the seed of the run (`seed_everything`), a step and a rank, and nothing else."""
    sequence = np.random.SeedSequence([int(os.environ.get("PL_GLOBAL_SEED", "0")), step, rank])
    for_python, for_numpy, for_torch = sequence.generate_state(3)
    random.seed(int(for_python))
    np.random.seed(int(for_numpy))
    torch.manual_seed(int(for_torch))  # CUDA included
