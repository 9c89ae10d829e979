"""Requests for samples in the form of OpenAI-compatible servers, and the samples in their answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from lightning_modules.generation.engine import FinishReason, GeneratedText
from lightning_modules.generation.sampling import SamplingParameters

_MOST_NUMBERS = 2**20
# Of a seed only the low 32 bits count on some servers, and some take signed numbers of that size.
_SEEDS = 2**31 - _MOST_NUMBERS
_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
}
_NO_TOP_K = -1


class Piece(NamedTuple):
    """Samples of a prompt that one request asks for.

    Attributes:
        first: Number of its first sample key.
        samples: How many.
        seed: Of the first sample; a server counts up from there. None for greedy decoding.
    """

    first: int
    samples: int
    seed: int | None


def sample_seed(seed: int, key: str) -> int:
    """The seed of a sample, from 0 to 2**31 - 1.

    It depends on the seed of the run and the key alone. Keys that end in ``/`` and a number have consecutive seeds: a
    server that is asked for n samples gives the i-th one the seed of the request plus i, so that a sample is the same
    whether it is asked for alone or among others. Samples of one prompt never have the same seed.
    """
    stem, _, end = key.rpartition("/")
    number = int(end) if end.isascii() and end.isdecimal() else -1
    if not 0 <= number < _MOST_NUMBERS or str(number) != end:
        stem, number = key, 0
    digest = hashlib.blake2b(f"{seed}\0{stem}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % _SEEDS + number


def pieces_of(keys: Sequence[str], parameters: SamplingParameters, most: int) -> list[Piece]:
    """Split the samples of a prompt into requests.

    Args:
        keys: Of the samples.
        parameters: With temperature 0 all samples are the same, and one is asked for.
        most: Most samples of a request.
    """
    if parameters.temperature == 0:
        return [Piece(0, 1, None)]
    pieces: list[Piece] = []
    for number, key in enumerate(keys):
        seed, last = sample_seed(parameters.seed, key), pieces[-1] if pieces else None
        if last is not None and last.seed is not None and last.samples < most and seed == last.seed + last.samples:
            pieces[-1] = last._replace(samples=last.samples + 1)
        else:
            pieces.append(Piece(number, 1, seed))
    return pieces


def body_of(
    model: str, messages: Sequence[Mapping[str, Any]], parameters: SamplingParameters, piece: Piece
) -> dict[str, Any]:
    """A request as JSON.

    All sampling parameters are given, since servers otherwise take those of the model's generation_config.json.

    Args:
        model: Name of the model on the server.
        messages: As of :meth:`lightning_modules.servers.messages.PictureEncoder.chat`. If the last one is of the
            assistant, it is continued.
        parameters: How to sample.
        piece: Which samples.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        "n": piece.samples,
        "max_tokens": parameters.max_new_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "top_k": _NO_TOP_K if parameters.top_k is None else parameters.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "skip_special_tokens": True,
        "stream": False,
    }
    if piece.seed is not None:
        body["seed"] = piece.seed
    if parameters.stop:
        # With the stop string, so that where a text is cut is decided here, for all engines alike.
        body |= {"stop": list(parameters.stop), "include_stop_str_in_output": True}
    if messages[-1]["role"] == "assistant":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def fault_of(answer: Mapping[str, Any]) -> str | None:
    """What is wrong with an answer that should hold samples; None if nothing is."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return f"no choices: {str(dict(answer))[:200]}"
    for choice in choices:
        if not isinstance(choice, Mapping) or not isinstance(choice.get("message"), Mapping):
            return f"a choice without a message: {str(choice)[:200]}"
        if choice.get("finish_reason") not in _FINISH_REASONS:
            # As of a server that is shut down, which answers with what it has ("abort").
            return f"a text that was not finished (finish_reason {choice.get('finish_reason')!r})"
    return None


def texts_of(answer: Mapping[str, Any]) -> list[GeneratedText]:
    """The samples of an answer without fault, in the order of their seeds.

    A server counts the tokens of all samples together. They are shared out by the lengths of the texts, so that their
    sum is right.

    Raises:
        ValueError: If the server has taken texts apart.
    """
    choices = sorted(answer["choices"], key=lambda choice: choice.get("index") or 0)
    for choice in choices:
        message = choice["message"]
        if message.get("reasoning") or message.get("reasoning_content") or message.get("tool_calls"):
            raise ValueError(
                "the server takes thoughts or tool calls out of the texts, so that they are not whole; start it "
                "without a reasoning parser and a tool parser"
            )
    texts = [choice["message"].get("content") or "" for choice in choices]
    usage = answer.get("usage") or {}
    counts = shares(usage.get("completion_tokens") or 0, [len(text) + 1 for text in texts])
    return [
        GeneratedText(text, _FINISH_REASONS[choice["finish_reason"]], usage.get("prompt_tokens") or 0, count)
        for text, choice, count in zip(texts, choices, counts, strict=True)
    ]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to some weights, which add up to a total."""
    bounds = [0]
    for weight in weights:
        bounds.append(bounds[-1] + weight)
    places = [total * bound // bounds[-1] for bound in bounds]
    return [end - begin for begin, end in pairwise(places)]
