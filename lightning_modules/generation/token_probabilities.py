"""How likely a language model finds what may come next: options such as yes and no, and whole responses.

Requests about the same question are read behind one shared prefix, by
:func:`lightning_modules.scoring.candidates.score_candidates`, as a reward model reads candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from datamodules.conversation.candidates import EncodedCandidates, common_prefix_length, prefix_with_pictures
from datamodules.policy.chat import render_prompt
from lightning_modules.distributed.sharding import computing_device
from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.scoring.candidates import score_candidates
from lightning_modules.scoring.token_head import TokenHead

_QUESTIONS_AT_ONCE = 8
_MEMORY_GIB = 4.0

Options = Sequence[Sequence[str]]
"""K options, each with its spellings."""


@runtime_checkable
class TokenProbabilities(Protocol):
    """An engine that tells how likely tokens are.

    Requests come in groups about the same question: with the same pictures, and the same messages up to them. What a
    request continues is its ``partial_response``; its sample keys name it in errors.
    """

    def option_logprobs(self, groups: Sequence[Sequence[GenerationRequest]], options: Options) -> list[list[Tensor]]:
        """Log-probabilities of options behind partial responses.

        What counts is the first token by which the options differ, all spellings of an option together. White space at
        the end of a partial response is read together with the options, as tokenizers join it with words.

        Args:
            groups: Requests by question.
            options: K options.

        Returns:
            For each request (K,) natural logarithms.

        Raises:
            ValueError: If two options begin with the same token.
        """

    def response_logprobs(
        self, groups: Sequence[Sequence[GenerationRequest]], cut_at: int | None = None
    ) -> list[list[Tensor]]:
        """Log-probabilities of the tokens of whole responses, which are given as partial responses.

        The token that ends a response is the last one, except for responses of at least ``cut_at`` tokens, which were
        cut there.

        Args:
            groups: Requests by question.
            cut_at: Limit of new tokens that the responses were sampled with; by default all have ended by themselves.

        Returns:
            For each request (T,) natural logarithms, at least one.
        """


class OptionTokens(NamedTuple):
    """The tokens before options, and the tokens that options begin with.

    Attributes:
        text: The chat up to the options and with the first spelling, image placeholders not expanded.
        row: Its token ids.
        length: How many of them stand before the options.
        partial: The partial response as far as these hold it: without white space at its end that is a part of the
            options' tokens. None where its last letters and the options are tokens together.
        options: For each of K options, its distinct next token ids.
    """

    text: str
    row: list[int]
    length: int
    partial: str | None
    options: list[list[int]]


def option_tokens(processor: ProcessorMixin, request: GenerationRequest, options: Options) -> OptionTokens:
    """Tokenise options behind a partial response.

    Raises:
        ValueError: If two options begin with the same token.
    """
    chat, partial = render_prompt(processor, request.messages), request.partial_response
    spelled = [chat + partial + spelling for option in options for spelling in option]
    tokenizer = processor.tokenizer
    rows: list[list[int]] = tokenizer(spelled, add_special_tokens=False)["input_ids"]
    length = common_prefix_length(rows, min(map(len, rows)) - 1)
    begin, found = 0, []
    for option in options:
        found.append(sorted({row[length] for row in rows[begin : begin + len(option)]}))
        begin += len(option)
    # Spellings of two options may share a first token, such as a quotation mark that is split off of some of them.
    counts = Counter(token for tokens in found for token in tokens)
    found = [[token for token in tokens if counts[token] == 1] for tokens in found]
    if not all(found):
        raise ValueError(
            f"{_name(request)}: the options {', '.join(option[0] for option in options)} begin with the same token of "
            f"this tokenizer, so that one token does not tell them apart"
        )
    held = [partial, partial.rstrip()]
    before = tokenizer([chat + each for each in held], add_special_tokens=False)["input_ids"]
    fitting = [each for each, ids in zip(held, before, strict=True) if ids == rows[0][:length]]
    return OptionTokens(spelled[0], rows[0], length, fitting[0] if fitting else None, found)


def option_logprobs(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    groups: Sequence[Sequence[GenerationRequest]],
    options: Options,
    with_all_ranks: bool,
) -> list[list[Tensor]]:
    """See :meth:`TokenProbabilities.option_logprobs`; with sharded weights all ranks must call it together."""
    most = max(len(option) for option in options)
    found = [[option_tokens(processor, each, options) for each in group] for group in groups]
    encoded = []
    for requests, tokens in zip(groups, found, strict=True):
        rows = [each.row[: each.length] for each in tokens]
        # Rows of equal length: an option with fewer tokens repeats its first one.
        targets = [[[*o, *[o[0]] * (most - len(o))] for o in each.options] for each in tokens]
        positions = [torch.tensor([each.length - 1]) for each in tokens]
        flat = [torch.tensor(of_request).flatten()[None] for of_request in targets]
        encoded.append(_encode(processor, requests, [(t.text, t.row) for t in tokens], rows, positions, flat))
    logprobs = _scored(model, processor, encoded, with_all_ranks)
    return [
        [_of_options(row.view(len(options), most), each.options) for row, each in zip(rows, tokens, strict=True)]
        for rows, tokens in zip(logprobs, found, strict=True)
    ]


def _of_options(logprobs: Tensor, options: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack([row[: len(option)].logsumexp(0) for row, option in zip(logprobs, options, strict=True)])


class ResponseTokens(NamedTuple):
    """A response in its chat.

    Attributes:
        text: The chat with the response, image placeholders not expanded.
        row: Its token ids.
        begin: Index of the response's first token in them.
        has_end: Whether the token that ends it counts.
    """

    text: str
    row: list[int]
    begin: int
    has_end: bool


def response_tokens(processor: ProcessorMixin, request: GenerationRequest, cut_at: int | None) -> ResponseTokens:
    """Tokenise a response; see :meth:`TokenProbabilities.response_logprobs`."""
    chat = render_prompt(processor, request.messages)
    text = chat + request.partial_response
    before, row = processor.tokenizer([chat, text], add_special_tokens=False)["input_ids"]
    begin = common_prefix_length([row, before], len(before))
    is_cut = cut_at is not None and begin < len(row) and len(row) - begin >= cut_at
    return ResponseTokens(text, row, begin, not is_cut)


def response_logprobs(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    groups: Sequence[Sequence[GenerationRequest]],
    end_id: int,
    cut_at: int | None,
    with_all_ranks: bool,
) -> list[list[Tensor]]:
    """See :meth:`TokenProbabilities.response_logprobs`; with sharded weights all ranks must call it together."""
    encoded = []
    for requests in groups:
        tokens = [response_tokens(processor, each, cut_at) for each in requests]
        positions = [torch.arange(each.begin - 1, len(each.row) - 1 + each.has_end) for each in tokens]
        targets = [torch.tensor([*each.row[each.begin :], *[end_id] * each.has_end])[:, None] for each in tokens]
        rows = [each.row for each in tokens]
        encoded.append(_encode(processor, requests, [(t.text, t.row) for t in tokens], rows, positions, targets))
    scored = _scored(model, processor, encoded, with_all_ranks)
    return [[found[:, 0] for found in of_group] for of_group in scored]


@torch.no_grad()
def _scored(
    model: PreTrainedModel, processor: ProcessorMixin, groups: Sequence[EncodedCandidates], with_all_ranks: bool
) -> list[list[Tensor]]:
    """Log-probabilities of the targets; a few questions at once, unless all ranks must do the same."""
    head, pad_id = TokenHead(model), processor.tokenizer.pad_token_id or 0
    # On a CPU there is a bound of its own.
    memory_gib = None if computing_device(model).type == "cpu" else _MEMORY_GIB
    size = len(groups) if with_all_ranks else _QUESTIONS_AT_ONCE
    pieces = [groups[begin : begin + size] for begin in range(0, len(groups), max(1, size))]
    return [
        scored
        for piece in pieces
        for scored in score_candidates(model, head, piece, pad_id, memory_gib, with_all_ranks=with_all_ranks)
    ]


def _encode(
    processor: ProcessorMixin,
    requests: Sequence[GenerationRequest],
    whole: Sequence[tuple[str, list[int]]],
    rows: Sequence[list[int]],
    positions: Sequence[Tensor],
    targets: list[Tensor],
) -> EncodedCandidates:
    """Requests of a question as candidates: with tokens ``rows``, which begin the texts of ``whole``."""
    length = common_prefix_length(rows, min(int(each[0]) for each in positions))
    first = requests[0]
    prefix = prefix_with_pictures(processor, first.images, *whole[0], length, _name(first), first.max_tiles)
    return EncodedCandidates(
        prefix,
        [torch.tensor(row[length:]) for row in rows],
        [each - length for each in positions],
        targets=targets,
    )


def _name(request: GenerationRequest) -> str:
    return request.sample_keys[0] if request.sample_keys else "a request"


def by_question(
    requests: Sequence[GenerationRequest], question_of: Callable[[int], int]
) -> tuple[list[list[GenerationRequest]], list[list[int]]]:
    """Requests in groups, and the numbers of those of each group.

    Args:
        requests: In any order.
        question_of: From the number of a request to that of its question.
    """
    numbers: dict[int, list[int]] = {}
    for number in range(len(requests)):
        numbers.setdefault(question_of(number), []).append(number)
    return [[requests[number] for number in group] for group in numbers.values()], list(numbers.values())
