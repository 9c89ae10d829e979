"""Makes sure that a server reads prompts as the in-process engine does, and continues partial solutions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers import ProcessorMixin

from datamodules.conversation.tiles import model_inputs
from datamodules.policy.chat import render_prompt
from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.server_requests import Piece, body_of
from lightning_modules.servers.client import ServerClient
from lightning_modules.servers.errors import RequestRefusedError

logger = logging.getLogger(__name__)

CheckPrompts = Literal["error", "warn", "off"]

_CHAT = [{"role": "user", "content": "Count from 1 to 9."}, {"role": "assistant", "content": "1, 2, 3, 4,"}]
_PROBE = "check of partial solutions"


class PromptMismatchError(RuntimeError):
    """A server does not read a prompt as it should; the text says how it differs and what to do."""


class PromptCheck:
    """Looks at the first prompt of each kind, and once at whether partial solutions are continued.

    Args:
        client: Of the servers.
        model: Name of the model there.
        extra_body: Fields of every request.
        how: What to do if a prompt is read in other tokens than the processor's; see
            :class:`lightning_modules.generation.server_engine.ServerEngine`.

    Attributes:
        processor: Of the served model; without it prompts are not looked at.
    """

    def __init__(self, client: ServerClient, model: str, extra_body: Mapping[str, Any], how: CheckPrompts) -> None:
        self.client, self.model, self.extra_body, self.how = client, model, extra_body, how
        self.processor: ProcessorMixin | None = None
        self._continues = False
        self._checked: set[tuple[Any, ...]] = set()

    def is_due(self, request: GenerationRequest) -> bool:
        """Whether a prompt is the first one of its kind."""
        return self.how != "off" and self.processor is not None and _kind(request) not in self._checked

    def prompt(self, request: GenerationRequest, answer: Mapping[str, Any], name: str) -> None:
        """Compare the tokens that a server has read with those of the processor, if it is the first such prompt.

        Raises:
            PromptMismatchError: If they differ; with ``how`` "warn" that is logged.
        """
        if self.processor is None or not self.is_due(request):
            return
        self._checked.add(_kind(request))
        found = mismatch(answer, prompt_ids(self.processor, request), self.processor)
        if found is None:
            return
        told = (
            f"{name}: {self.model} at {', '.join(self.client.base_urls)} reads this prompt as {found}; the folder of "
            f"the processor must be that of the served model, with the same chat template"
        )
        if self.how == "error":
            raise PromptMismatchError(f"{told} (check_prompts: warn goes on all the same)")
        logger.warning("%s", told)

    def continuation(self) -> None:
        """Make sure, once, that partial solutions are continued; see :func:`check_continuation`."""
        if not self._continues and self.how != "off":
            check_continuation(self.client, self.model, self.extra_body)
        self._continues = True


def _kind(request: GenerationRequest) -> tuple[Any, ...]:
    """What may make a difference to how a server reads prompts."""
    roles = tuple(message["role"] for message in request.messages)
    return roles, min(len(request.images), 2), bool(request.partial_response), request.max_tiles


def check_continuation(client: ServerClient, model: str, extra_body: Mapping[str, Any]) -> None:
    """Make sure that a server continues the last message of a chat.

    One that does not know how to answers as if it did: with a new turn behind the partial solution. Such a turn begins
    with tokens of its own, so the same chat is sent with and without asking for one, and must be longer with it.

    Args:
        client: Of the server.
        model: Name of the model there.
        extra_body: Fields of every request.

    Raises:
        PromptMismatchError: If it does not, or refuses to.
        ServerError: If it does not answer.
    """
    continuing = body_of(model, _CHAT, SamplingParameters(temperature=0.0, max_new_tokens=1), Piece(0, 1, None))
    continuing = with_fields(continuing, extra_body)
    in_a_new_turn = continuing | {"continue_final_message": False, "add_generation_prompt": True}
    where = f"{model} at {', '.join(client.base_urls)}"
    try:
        answers = client.complete([(_PROBE, continuing), (_PROBE, in_a_new_turn)])
    except RequestRefusedError as error:
        raise PromptMismatchError(f"{where}: partial solutions cannot be continued: {error}") from error
    lengths = [found for answer in answers if (found := (answer.get("usage") or {}).get("prompt_tokens")) is not None]
    if len(lengths) < len(answers):
        raise PromptMismatchError(
            f"{where}: cannot tell whether partial solutions are continued, because the server does not count the "
            f"tokens of prompts (usage.prompt_tokens); check_prompts: off goes on without knowing"
        )
    if lengths[0] >= lengths[1]:
        raise PromptMismatchError(
            f"{where}: partial solutions are not continued: asked to go on behind a partial answer, the server begins "
            f"a new one ({lengths[0]} tokens of prompt, and {lengths[1]} when a new one is asked for); take a server "
            f"that knows continue_final_message, such as vLLM or SGLang"
        )


def prompt_ids(processor: ProcessorMixin, request: GenerationRequest) -> list[int]:
    """Token ids of a prompt, image tokens and partial response included, as the in-process engine reads it."""
    text = render_prompt(processor, request.messages) + request.partial_response
    inputs = model_inputs(processor, [text], [request.images], [request.max_tiles], padding_side="left")
    ids: list[int] = inputs["input_ids"][0].tolist()
    return ids


def mismatch(answer: Mapping[str, Any], expected: Sequence[int], processor: ProcessorMixin) -> str | None:
    """How the prompt that a server has read differs from the expected token ids; None if it does not.

    Args:
        answer: Holds ``prompt_token_ids`` if the server gives them, and otherwise only their number is compared.
        expected: See :func:`prompt_ids`.
        processor: Decodes tokens for the message.
    """
    found = answer.get("prompt_token_ids")
    if not isinstance(found, list):
        count = (answer.get("usage") or {}).get("prompt_tokens")
        return None if count in (None, len(expected)) else f"{count} tokens, and {len(expected)} were expected"
    if found == list(expected):
        return None
    pairs = zip(found, expected, strict=False)
    shared = min(len(found), len(expected))
    place = next((place for place, (one, other) in enumerate(pairs) if one != other), shared)
    decode = processor.tokenizer.decode
    return (
        f"{len(found)} tokens, and {len(expected)} were expected; token {place} and what follows is "
        f"{decode(found[place : place + 8])!r}, and {decode(expected[place : place + 8])!r} was expected"
    )


def with_fields(body: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A request with some fields replaced; None leaves a field out."""
    return {name: value for name, value in {**body, **fields}.items() if value is not None}
