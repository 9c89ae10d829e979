"""The language-model loss on the text of steps, which keeps a reward model's hidden states generative.

After GRM (Yang et al. 2024, arXiv 2406.10216), whose text loss is, like its reward loss, a mean over the labelled
examples. Here an example is a step: the loss of a step is the mean over its tokens, 0 for a step that is not to be
imitated, and it is averaged as the losses of the step labels are. So one number of labels divides both, which the mean
over a global batch needs (see :mod:`lightning_modules.training.global_mean`).
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
        backbone: Whose vocabulary head is asked, where a token is judged and nowhere else.
        batch: B conversations with ``step_tokens``, padded or packed.
        states: (B, L, H) last hidden states, or (1, T, H) of a packed batch.
        chosen: (B, S) bool, the steps that have a loss.

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
