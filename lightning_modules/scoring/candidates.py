"""Score all candidates of a question with one forward over their shared prefix: image(s) and question.

B questions, N candidates each, P prefix tokens, T candidate tokens in all, S steps, K classes.

A reward model reads class logits at step positions. A language model reads log-probabilities of given tokens there, see
:class:`lightning_modules.scoring.token_head.TokenHead`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import logging

from datamodules.conversation.candidates import EncodedCandidates
from lightning_modules.distributed.sharding import computing_device
from lightning_modules.model.positions import prompt_positions
from lightning_modules.model.prompt_batch import continue_prompt, join_prompts
from lightning_modules.model.step_head import StepHead
from lightning_modules.scoring.memory import (
    most_on_any_rank,
    on_this_rank_alone,
    split_into_groups,
    tokens_at_once,
)
from lightning_modules.scoring.shared_prefix import PackedCandidates, attending_to_prefix, shared_prefix_obstacle
from lightning_modules.scoring.stretched_positions import forget_longer_sequences, stretched_beyond
from lightning_modules.scoring.token_head import TokenHead

_logger = logging.get_logger(__name__)


class _Candidate(NamedTuple):
    question: int
    ids: Tensor  # (L,) after the prefix, up to the last position that is judged
    positions: Tensor  # (S,)
    rest: Tensor  # tokens after them
    targets: Tensor | None  # (S, K)


def score_candidates(
    backbone: PreTrainedModel,
    head: StepHead | TokenHead,
    groups: Sequence[EncodedCandidates],
    pad_id: int,
    memory_gib: float | None = None,
    with_all_ranks: bool = True,
) -> list[list[Tensor]]:
    """Class logits of every step of every candidate, or log-probabilities of tokens.

    The prefixes of all questions take one forward. All candidates take another one, in one row without padding (on a
    CPU a few, see :func:`lightning_modules.scoring.memory.tokens_at_once`). Equal candidates are scored once. If the
    model's attention does not permit a shared prefix (see :func:`shared_prefix_obstacle`), each candidate has a forward
    of its own; this is logged once, with the reason.

    All ranks run the same number of forwards: two per call; or, with a memory budget, on a CPU, or with one forward per
    candidate, the largest number that a rank needs. Ranks that need fewer repeat one.

    Args:
        backbone: The model.
        head: The step head; a token head for groups with targets.
        groups: B questions with their candidates, encoded with the model's processor.
        pad_id: Any valid token id.
        memory_gib: Bound, in GiB, on the cached prefixes and the activations of candidates; candidates are split into
            groups accordingly, of at least one. None for no bound (on a CPU: its default bound). The forward over the
            prefixes is not split. Step scores change by rounding only: 1e-6 in float32.
        with_all_ranks: Whether all ranks call this together. If not, no rank waits for another one, which weights that
            are sharded do not permit.

    Returns:
        For each question, for each candidate: (S, K) float32 logits on the CPU.
    """
    if not with_all_ranks:
        with on_this_rank_alone():
            return score_candidates(backbone, head, groups, pad_id, memory_gib)
    candidates, places = _distinct_candidates(groups)
    stretched = _length_obstacle(backbone, head, groups, candidates)
    obstacle = shared_prefix_obstacle(backbone) or stretched
    if obstacle is None:
        logits = _score_with_shared_prefix(backbone, head, groups, candidates, pad_id, memory_gib)
    else:
        _logger.warning_once(
            f"{backbone.config.model_type}: every response is read from its beginning, as candidates cannot share "
            f"their prefix in this model: {obstacle}"
        )
        logits = _score_one_by_one(backbone, head, groups, candidates, to_the_end=stretched is not None)
    return [[logits[place] for place in of_question] for of_question in places]


def _length_obstacle(
    backbone: PreTrainedModel,
    head: StepHead | TokenHead,
    groups: Sequence[EncodedCandidates],
    candidates: Sequence[_Candidate],
) -> str | None:
    """Why conversations of this length cannot share a prefix; all ranks get the same answer."""
    bound = stretched_beyond(backbone)
    if bound is None:
        return None
    forget_longer_sequences(backbone)
    longest = max(groups[c.question].prefix["input_ids"].shape[1] + len(c.ids) + len(c.rest) for c in candidates)
    if most_on_any_rank(longest, computing_device(head)) <= bound:
        return None
    return f"a conversation of more than {bound} tokens changes the positions of its prefix"


def _distinct_candidates(groups: Sequence[EncodedCandidates]) -> tuple[list[_Candidate], list[list[int]]]:
    """Distinct candidates of all questions, and for each question the indices of its own."""
    found: dict[tuple[int, bytes, bytes, bytes], int] = {}
    candidates: list[_Candidate] = []
    places: list[list[int]] = []
    for question, group in enumerate(groups):
        places.append([])
        of_candidates: Sequence[Tensor | None] = group.targets or [None] * len(group.suffixes)
        for suffix, positions, targets in zip(group.suffixes, group.step_positions, of_candidates, strict=True):
            ids = suffix[: int(positions[-1]) + 1]
            asked = b"" if targets is None else targets.numpy().tobytes()
            key = (question, ids.numpy().tobytes(), positions.numpy().tobytes(), asked)
            if key not in found:
                found[key] = len(candidates)
                candidates.append(_Candidate(question, ids, positions, suffix[len(ids) :], targets))
            places[-1].append(found[key])
    return candidates, places


def _to_device(inputs: dict[str, Tensor], backbone: PreTrainedModel, device: torch.device) -> dict[str, Tensor]:
    return {
        name: value.to(device, backbone.dtype if value.is_floating_point() else None) for name, value in inputs.items()
    }


def _score_with_shared_prefix(
    backbone: PreTrainedModel,
    head: StepHead | TokenHead,
    groups: Sequence[EncodedCandidates],
    candidates: list[_Candidate],
    pad_id: int,
    memory_gib: float | None,
) -> dict[int, Tensor]:
    device = computing_device(head)
    inputs = _to_device(join_prompts([group.prefix for group in groups], pad_id), backbone, device)
    positions, starts = prompt_positions(backbone, inputs)
    # Padding stands to the right, where no token sees it: no mask is needed.
    lengths = inputs.pop("attention_mask").sum(-1).tolist()
    cache = backbone.base_model(**inputs, position_ids=positions, cache=DynamicCache(), use_cache=True).cache
    most_tokens = tokens_at_once(memory_gib, backbone, cache)
    batches = split_into_groups([len(candidate.ids) for candidate in candidates], most_tokens)
    count = len(batches) if most_tokens is None else most_on_any_rank(len(batches), device)
    logits: dict[int, Tensor] = {}
    for batch in [*batches, *[batches[-1]] * (count - len(batches))]:
        chosen = [candidates[index] for index in batch]
        sizes = [[len(c.ids) for c in chosen if c.question == question] for question in range(len(groups))]
        packed = PackedCandidates.of(cache, lengths, sizes, device)
        row = torch.cat([starts[c.question].cpu() + torch.arange(len(c.ids)) for c in chosen]).to(device)
        with attending_to_prefix(backbone, packed):
            hidden_states = backbone.base_model(
                input_ids=torch.cat([c.ids for c in chosen])[None].to(device),
                position_ids=row.expand(*positions.shape[:-2], 1, -1),
                use_cache=False,
            ).last_hidden_state
        logits |= zip(batch, _judge(head, hidden_states, chosen), strict=True)
    return logits


def _judge(head: StepHead | TokenHead, hidden_states: Tensor, chosen: Sequence[_Candidate]) -> Sequence[Tensor]:
    """Logits (S, K) of each candidate in a row (1, T, hidden)."""
    begin, positions = 0, []
    for candidate in chosen:
        positions.append(candidate.positions + begin)
        begin += len(candidate.ids)
    found = _read(head, hidden_states, torch.cat(positions), [candidate.targets for candidate in chosen])
    return found.split([len(candidate.positions) for candidate in chosen])


def _read(
    head: StepHead | TokenHead, hidden_states: Tensor, positions: Tensor, targets: Sequence[Tensor | None]
) -> Tensor:
    """What a head says at positions (S,) of a row (1, T, hidden): (S, K) on the CPU."""
    positions = positions[None].to(hidden_states.device)
    if isinstance(head, TokenHead):
        given = torch.cat([each for each in targets if each is not None])
        return head(hidden_states, positions, given[None].to(hidden_states.device))[0].cpu()
    return head(hidden_states, positions)[0].cpu()


def _score_one_by_one(
    backbone: PreTrainedModel,
    head: StepHead | TokenHead,
    groups: Sequence[EncodedCandidates],
    candidates: list[_Candidate],
    to_the_end: bool,
) -> dict[int, Tensor]:
    """A forward for each candidate; ``to_the_end`` of its conversation, where the length of it matters."""
    device = computing_device(head)
    logits: dict[int, Tensor] = {}
    for number in range(most_on_any_rank(len(candidates), device)):
        index = min(number, len(candidates) - 1)
        question, ids, positions, rest, targets = candidates[index]
        prefix = groups[question].prefix
        ids = torch.cat([ids, rest]) if to_the_end else ids
        inputs = _to_device(continue_prompt(prefix, ids), backbone, device)
        forget_longer_sequences(backbone)
        hidden_states = backbone.base_model(**inputs, use_cache=False).last_hidden_state
        logits[index] = _read(head, hidden_states, positions + prefix["input_ids"].shape[1], [targets])
    return logits
