"""Scoring all candidates of a question against one run over what they share: image(s) and question.

B questions, N candidates each (the largest number in the batch), P prefix tokens, L suffix tokens, S steps, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from datamodules.process.candidates import EncodedCandidates
from lightning_modules.model.cache import continue_from, positions_of
from lightning_modules.model.step_head import StepHead


def _pad_left(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence([row.flip(0) for row in rows], batch_first=True, padding_value=value).flip(1)


def _batch_prefixes(groups: Sequence[EncodedCandidates], pad_id: int) -> dict[str, Tensor]:
    """Left-pad the prefixes (B, P) and join their image inputs."""
    ids = [group.prefix["input_ids"][0] for group in groups]
    batch = {
        "input_ids": _pad_left(ids, pad_id),
        "attention_mask": _pad_left([torch.ones_like(row) for row in ids], 0),
    }
    names = {name for group in groups for name in group.prefix} - set(batch)
    for name in sorted(names):
        batch[name] = torch.cat([group.prefix[name] for group in groups if name in group.prefix])
    return batch


def score_candidates(
    backbone: PreTrainedModel, head: StepHead, groups: Sequence[EncodedCandidates], pad_id: int
) -> list[list[Tensor]]:
    """Class logits of every step of every candidate.

    Every call runs exactly two forwards, whatever the numbers of candidates, so that ranks stay in step.

    Args:
        backbone: The model; its positions must be plain (one number a token).
        head: The step head.
        groups: B questions with their candidates.
        pad_id: Any valid token id.

    Returns:
        For each question, for each candidate: (S, K) float32 logits.
    """
    device = head.weight.device
    inputs = {name: value.to(device) for name, value in _batch_prefixes(groups, pad_id).items()}
    prefix_mask = inputs["attention_mask"]
    prefix = backbone.model(
        **inputs, position_ids=positions_of(prefix_mask), cache=DynamicCache(), use_cache=True
    ).cache
    most = max(len(group.suffixes) for group in groups)
    # A question with fewer candidates is filled up with one-token rows, whose result is dropped.
    filler = torch.tensor([pad_id])
    suffixes = [suffix for group in groups for suffix in [*group.suffixes, *[filler] * (most - len(group.suffixes))]]
    positions = [
        found
        for group in groups
        for found in [*group.step_positions, *[torch.tensor([0])] * (most - len(group.step_positions))]
    ]
    suffix_ids = pad_sequence(suffixes, batch_first=True, padding_value=pad_id).to(device)
    suffix_mask = pad_sequence([torch.ones_like(s) for s in suffixes], batch_first=True).to(device)
    step_positions = pad_sequence(positions, batch_first=True, padding_value=-1).to(device)
    starts = prefix_mask.sum(-1).repeat_interleave(most)
    hidden_states = backbone.model(
        input_ids=suffix_ids,
        attention_mask=torch.cat([prefix_mask.repeat_interleave(most, 0), suffix_mask], -1),
        position_ids=starts[:, None] + torch.arange(suffix_ids.shape[1], device=device),
        cache=continue_from(prefix, most, suffix_ids.shape[1]),
        use_cache=True,
    ).last_hidden_state
    logits = head(hidden_states, step_positions).cpu()
    return [
        [logits[index * most + number, : len(found)] for number, found in enumerate(group.step_positions)]
        for index, group in enumerate(groups)
    ]
