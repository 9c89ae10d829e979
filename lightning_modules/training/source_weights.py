"""Weights of training sources, moved by how their gradients agree with that of held-out rows.

The bilevel idea of DreamPRM (arXiv 2505.20241) in its cheap form: no second-order gradient and no second model, but the
gradient of the step head alone, whose agreement is the first-order change of the validation loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from datamodules.batching.collate import StepBatch
from lightning_modules.model.packed_forward import hidden_states, step_logits
from lightning_modules.process_reward import ProcessRewardModel


def head_gradients(module: ProcessRewardModel, batch: StepBatch, by_source: bool) -> dict[str, tuple[Tensor, float]]:
    """Gradients of the step loss with respect to the step head.

    Args:
        module: Is not changed; its backbone runs once, without gradients.
        batch: On the module's device.
        by_source: A gradient for each source of the batch, or one for all, named "".

    Returns:
        For each name the gradient of the summed loss, flat and on the CPU, and the weight of its labels. Step weights
        of the batch do not count.
    """
    with torch.no_grad():
        states = hidden_states(module.backbone, batch)
    found: dict[str, tuple[Tensor, float]] = {}
    with torch.enable_grad():
        logits = step_logits(module.head, states, batch)
        losses = module.step_loss.of_solutions(
            logits, batch.mc, question_accuracy=batch.question_accuracy, num_mc_total=batch.num_mc_total
        )
        parameters = [parameter for parameter in module.head.parameters() if parameter.requires_grad]
        names = batch.sources if by_source else [""] * len(batch.sources)
        for name in sorted(set(names)):
            rows = torch.tensor([each == name for each in names], device=losses.total.device)
            gradients = torch.autograd.grad(losses.total[rows].sum(), parameters, retain_graph=True)
            flat = torch.cat([gradient.flatten().float().cpu() for gradient in gradients])
            found[name] = flat, float(losses.weight[rows].sum())
    return found


def agreement(gradient: Tensor, of_validation: Tensor) -> float:
    """Cosine of the angle between two gradients, in [-1, 1]; 0 where one of them is 0."""
    return float(torch.nn.functional.cosine_similarity(gradient.double(), of_validation.double(), dim=0, eps=1e-30))


class SourceWeights:
    """Weights of sources with a mean of 1.

    A source begins with weight 1. Each update multiplies the weight of a source by the exponential of rate times
    agreement; then all are divided by their mean and bounded.

    Args:
        rate: Of the updates.
        bounds: Least and greatest weight.
    """

    def __init__(self, rate: float, bounds: tuple[float, float]) -> None:
        self.rate, self.bounds = rate, bounds
        self.weights: dict[str, float] = {}

    def update(self, agreements: Mapping[str, float]) -> None:
        """Move the weights of some sources by their agreements in [-1, 1]."""
        for name, value in agreements.items():
            self.weights[name] = self.weights.get(name, 1.0) * math.exp(self.rate * value)
        mean = sum(self.weights.values()) / len(self.weights)
        low, high = self.bounds
        self.weights = {name: min(max(weight / mean, low), high) for name, weight in sorted(self.weights.items())}

    def of(self, sources: list[str]) -> Tensor:
        """(B,) weights of B samples; 1 for a source without an update."""
        return torch.tensor([self.weights.get(name, 1.0) for name in sources])
