"""Language-model losses of a reward model: on the text of right steps, and on the verdicts themselves.

The first keeps the hidden states generative. As in GRM (Yang et al. 2024, arXiv 2406.10216), it is averaged over the
same labelled examples as the reward loss. Here an example is a step. Its loss is the mean over its tokens, or 0 if the
step is not to be imitated. Both losses are then divided by one number of labels, as
:mod:`lightning_modules.training.global_mean` needs it.

The second is the released training: there the verdict and the token behind it, which ends the turn, are ordinary
next tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from datamodules.batching.collate import StepBatch
from lightning_modules.model.packed_forward import step_logits
from lightning_modules.model.step_head import StepHead, vocabulary_logits


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


def verdict_losses(
    backbone: PreTrainedModel, head: StepHead, batch: StepBatch, states: Tensor, logits: Tensor
) -> Tensor:
    """What the released training adds to the cross-entropy among the class tokens, for each step.

    The first part is minus the logarithm of the probability of all class tokens together in the whole vocabulary; with
    the cross-entropy among them it is that of the verdict in the vocabulary. The second is the cross-entropy of the
    token behind the verdict; 0 where a conversation ends with the verdict.

    Args:
        backbone: The model; vocabulary logits are computed at two tokens a step.
        head: Has the class tokens' rows of the language-model head.
        batch: B conversations, padded or packed.
        states: (B, L, H) last hidden states, or (1, T, H) of a packed batch.
        logits: (B, S, K) class logits of all steps.

    Returns:
        (B, S) float32; 0 at padding.
    """
    positions = batch.step_positions
    conversation, step = (positions >= 0).nonzero(as_tuple=True)
    row = conversation if batch.boundaries is None else torch.zeros_like(conversation)
    place = positions[conversation, step]
    after = (place + 2).clamp_max(states.shape[1] - 1)
    if batch.boundaries is None:
        ends = batch.lengths
    else:
        ends = torch.tensor(batch.boundaries[1:], device=place.device)
    has_end = place + 2 < ends[conversation]
    next_places = torch.where(positions >= 0, (positions + 1).clamp_max(states.shape[1] - 1), -1)
    at_end = step_logits(head, states, replace(batch, step_positions=next_places))[conversation, step]
    both = vocabulary_logits(backbone, torch.cat([states[row, place], states[row, place + 1]])).float()
    # The rows of the class tokens are trained in the step head; those of the whole head are out of date.
    classes = torch.cat([logits[conversation, step], at_end])
    both = both.index_copy(-1, torch.tensor(head.token_ids, device=both.device), classes.to(both.dtype))
    of_verdict, of_end = both.chunk(2)
    mass = of_verdict.logsumexp(-1) - logits[conversation, step].logsumexp(-1)
    targets = batch.inputs["input_ids"][row, after]
    ending = cross_entropy(of_end, targets, reduction="none").masked_fill(~has_end, 0.0)
    return mass.new_zeros(positions.shape).index_put((conversation, step), mass + ending)
