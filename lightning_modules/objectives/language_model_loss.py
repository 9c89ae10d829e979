"""The language-model loss on the text of steps, which keeps the hidden states of a reward model generative.

As in GRM (Yang et al. 2024, arXiv 2406.10216), the text loss is averaged over the same labelled examples as the reward
loss. Here an example is a step. Its loss is the mean over its tokens, or 0 if the step is not to be imitated. Both
losses are then divided by one number of labels, as :mod:`lightning_modules.training.global_mean` needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from datamodules.batching.collate import StepBatch
from lightning_modules.model.step_head import vocabulary_logits


def step_text_losses(backbone: PreTrainedModel, batch: StepBatch, states: Tensor, chosen: Tensor) -> Tensor:
    """Mean next-token cross-entropy of the text of each step.

    Args:
        backbone: The model; vocabulary logits are computed at tokens of chosen steps only.
        batch: B conversations with ``step_tokens``, padded or packed.
        states: (B, L, H) last hidden states, or (1, T, H) of a packed batch.
        chosen: (B, S) bool, the steps to imitate.

    Returns:
        (B, S) float32; 0 for steps that are not chosen or have no tokens.
    """
    assert batch.step_tokens is not None
    conversation, step, token = (batch.step_tokens & chosen[..., None]).nonzero(as_tuple=True)
    row = conversation if batch.boundaries is None else torch.zeros_like(conversation)
    logits = vocabulary_logits(backbone, states[row, token - 1])
    losses = cross_entropy(logits.float(), batch.inputs["input_ids"][row, token], reduction="none")
    place = conversation * chosen.shape[1] + step
    totals = losses.new_zeros(chosen.numel()).index_add(0, place, losses)
    return (totals / place.bincount(minlength=chosen.numel()).clamp_min(1)).view_as(chosen)
