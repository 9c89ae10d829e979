"""Whether a server reads conversations as a reward model was trained on them, and tells what scoring needs.

A server with another chat template, picture size or tokenizer would answer all the same, with other scores. So it is
asked for the token ids that it has read, and these are compared with those of the model's own folder.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from PIL import Image
from transformers.utils import logging

from datamodules.conversation.encoder import Conversation, ConversationEncoder
from lightning_modules.generation.server_check import mismatch
from lightning_modules.model.text_processor import TextProcessor
from lightning_modules.scoring.class_logprobs import ClassLogprobs, MissingClassError
from lightning_modules.scoring.step_requests import Chat, layout_of, step_body, step_chats
from lightning_modules.servers.client import ServerClient
from lightning_modules.servers.errors import RequestRefusedError
from lightning_modules.servers.messages import PictureEncoder

_logger = logging.get_logger(__name__)


class ServerCheck:
    """Asks servers about a few conversations before scores are taken from them.

    Args:
        client: Of the servers.
        encoder: Of the model.
        model: Name of the model at the servers.
    """

    def __init__(self, client: ServerClient, encoder: ConversationEncoder, model: str) -> None:
        self.client = client
        self.model = model
        self._encoder = encoder
        self._classes: ClassLogprobs | None = None
        self._checked: set[tuple[Any, ...]] = set()

    def classes(self) -> ClassLogprobs:
        """How the servers are asked for class probabilities; the first call asks every one of them.

        Raises:
            ServerError: If a server does not answer.
            ValueError: If a server reads a conversation in another way than the model, or has no exact way to ask for
                class probabilities.
        """
        if self._classes is None:
            ways = [ClassLogprobs(tuple(self._encoder.class_token_ids), by_ids) for by_ids in (True, False)]
            for url in self.client.base_urls:
                with closing(_client_of(url, self.client)) as alone:
                    ways = self._usable(alone, url, ways)
                    for probe in self._probes():
                        self._compare(alone, url, probe, ways[0])
            self._classes = ways[0]
        return self._classes

    def conversation(self, conversation: Conversation, chat: Chat) -> None:
        """Check a conversation if it is the first with its order of texts and pictures and its tiles.

        Raises:
            ServerError: If no server answers.
            ValueError: See :meth:`classes`.
        """
        kind = (*layout_of(chat), conversation.max_tiles)
        if kind not in self._checked:
            self._compare(self.client, " or ".join(self.client.base_urls), conversation, self.classes())
            self._checked.add(kind)

    def _probes(self) -> list[Conversation]:
        """Small conversations: without a picture, and with one if the model reads pictures."""
        text = Conversation([], "1 + 2?", ["1 + 2 = 3", "3"], "check of the server")
        if isinstance(self._encoder.processor, TextProcessor):
            return [text]
        # Not square, so that rules about tiles and sizes show.
        picture = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
        return [text, text._replace(images=[picture], sample_id="check of the server with a picture")]

    def _usable(self, client: ServerClient, url: str, ways: Sequence[ClassLogprobs]) -> list[ClassLogprobs]:
        """The ways that a server has.

        Raises:
            ValueError: If it has none of them.
        """
        probe = self._probes()[0]
        usable, problems = [], []
        for way in ways:
            try:
                way.read(self._ask(client, probe, way))
                usable.append(way)
            except RequestRefusedError as error:
                problems.append(f"{way.name}: {error.problem}")
            except MissingClassError as error:
                problems.append(f"{way.name}: {error}")
        if not usable:
            raise ValueError(
                f"{url}: no exact way to ask this server for the probabilities of the class tokens "
                f"{list(self._encoder.class_tokens)}. Take a vLLM that knows logprob_token_ids, or start it with "
                f"--logprobs-mode processed_logprobs. {'. '.join(problems)}"
            )
        return usable

    def _ask(self, client: ServerClient, conversation: Conversation, way: ClassLogprobs) -> dict[str, Any]:
        """What a server answers about the last step of a conversation, with the token ids that it has read."""
        chat = step_chats(self._encoder, conversation, PictureEncoder())[-1]
        body = step_body(self.model, chat, way, self._encoder.tiling(conversation.max_tiles))
        (answer,) = client.complete([(conversation.sample_id, {**body, "return_token_ids": True})])
        return answer

    def _compare(self, client: ServerClient, url: str, conversation: Conversation, way: ClassLogprobs) -> None:
        answer = self._ask(client, conversation, way)
        told = mismatch(answer, self._ids(conversation), self._encoder.processor)
        if told is None and answer.get("prompt_token_ids") is not None:
            return
        where = f"{url}: {conversation.sample_id}"
        advice = (
            "Its scores would not be those of the model. Serve the model's folder as it is, with its own chat template "
            "and settings of pictures"
        )
        if told is not None:
            raise ValueError(f"{where}: the server reads other tokens than the model: {told}. {advice}")
        if (answer.get("usage") or {}).get("prompt_tokens") is None:
            raise ValueError(
                f"{where}: the server tells neither which tokens it has read (return_token_ids) nor how many "
                f"(usage.prompt_tokens), so that nothing shows whether it reads conversations as the model does"
            )
        _logger.warning_once(
            f"{url}: the server does not say which tokens it reads (return_token_ids); only their number was compared"
        )

    def _ids(self, conversation: Conversation) -> list[int]:
        """Token ids of a conversation before the judgement of its last step, as in this process."""
        encoder = copy.copy(self._encoder)
        encoder.encodes_pictures = True
        inputs, positions = encoder.encode([conversation])
        ids: list[int] = inputs["input_ids"][0, : int(positions[0, -1]) + 1].tolist()
        return ids


def _client_of(url: str, client: ServerClient) -> ServerClient:
    """A client of one of the servers, with the same settings."""
    return ServerClient(
        [url], client.concurrency, client.api_key_variable, client.timeout, client.patience, client.max_attempts
    )
