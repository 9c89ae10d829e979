"""Scores of a reward model that servers hold: vLLM, or others with an OpenAI-compatible interface.

Nothing is loaded in this process but the processor. Each step is a request of its own, see
:mod:`lightning_modules.scoring.step_requests`; those of all conversations are in flight together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.conversation.encoder import Conversation, ConversationEncoder
from lightning_modules.scoring.class_logprobs import MissingClassError
from lightning_modules.scoring.server_check import ServerCheck
from lightning_modules.scoring.step_requests import step_body, step_chats
from lightning_modules.servers.client import ServerClient
from lightning_modules.servers.errors import ServerError
from lightning_modules.servers.messages import PictureEncoder

_PAUSE = 1.0  # seconds between two looks at a server that is not up yet


class _Step(NamedTuple):
    """What the judgement of a step depends on; equal ones are asked for once.

    Attributes:
        pictures: URLs of the pictures.
        question: Text of the question.
        steps: The step and those before it.
        max_tiles: Most tiles of each picture.
    """

    pictures: tuple[str, ...]
    question: str
    steps: tuple[str, ...]
    max_tiles: int | None


@dataclass(frozen=True)
class RewardModelServer:
    """Servers that hold a reward model, and how they are asked.

    Attributes:
        base_urls: Addresses as in ``http://host:8000/v1``, all of the same model: a list, or a text with commas.
        model: Its name there; by default that of the only model which the first server holds.
        concurrency: Most requests that a server answers at once.
        api_key_variable: Name of the environment variable that holds the API key; none is sent by default.
        timeout: Seconds that one answer may take.
        patience: Seconds for which no server may answer before scoring fails.
        max_attempts: How often a request may fail on servers that answer others.
    """

    base_urls: list[str] | str
    model: str | None = None
    concurrency: int = 64
    api_key_variable: str | None = None
    timeout: float = 600.0
    patience: float = 600.0
    max_attempts: int = 10

    def client(self) -> ServerClient:
        """A client of the servers; it sends nothing yet.

        Raises:
            ValueError: If an address is none, or a number is out of range.
        """
        settings = {name: value for name, value in asdict(self).items() if name != "model"}
        if isinstance(self.base_urls, str):
            settings["base_urls"] = [url.strip() for url in self.base_urls.split(",") if url.strip()]
        return ServerClient(**settings)


class ServedScorer:
    """Asks servers for the class probabilities of steps.

    Before the first score it makes sure that every server reads conversations as the model was trained on them and
    gives the probabilities of all class tokens; see :class:`ServerCheck`. May be used by several threads at once.

    Args:
        server: Of the model.
        encoder: Of the model.

    Raises:
        ValueError: See :meth:`RewardModelServer.client`.
    """

    def __init__(self, server: RewardModelServer, encoder: ConversationEncoder) -> None:
        self.client = server.client()
        self.encoder = encoder
        self._model = server.model
        self._check: ServerCheck | None = None
        self._pictures = PictureEncoder()
        self._lock = threading.Lock()

    def check(self) -> ServerCheck:
        """Ask every server about small conversations, once.

        Raises:
            ServerError: If a server does not answer.
            ValueError: If a server cannot be used for scoring, or holds several models and none is named.
        """
        with self._lock:
            if self._check is None:
                found = ServerCheck(self.client, self.encoder, self._model or only_model(self.client))
                found.classes()
                self._check = found
            return self._check

    def class_logits(self, conversations: Sequence[Conversation]) -> list[Tensor]:
        """Logits of the classes at each step of each conversation, up to a constant.

        Args:
            conversations: Those about the same question next to each other, for the prefix caches of the servers.

        Returns:
            For each conversation (S, K) float32.

        Raises:
            ServerError: If a server refuses a request or does not answer; names the conversation and the step.
            ValueError: If a text holds a special token, a server cannot be used, or an answer lacks a class token.
        """
        check = self.check()
        classes = check.classes()
        requests: dict[_Step, tuple[str, dict[str, Any]]] = {}
        # All about a question goes to one server, whose prefix cache then has the pictures; the next one to another.
        questions: dict[tuple[Any, ...], int] = {}
        preferred: list[int] = []
        keys: list[list[_Step]] = []
        for conversation in conversations:
            chats = step_chats(self.encoder, conversation, self._pictures)
            pictures = tuple(self._pictures.url(image) for image in conversation.images)
            with self._lock:
                check.conversation(conversation, chats[-1])
            tiling = self.encoder.tiling(conversation.max_tiles)
            number_of_question = questions.setdefault((pictures, conversation.question), len(questions))
            keys.append([])
            for number, chat in enumerate(chats):
                steps = tuple(conversation.steps[: number + 1])
                key = _Step(pictures, conversation.question, steps, conversation.max_tiles)
                keys[-1].append(key)
                if key not in requests:
                    name = f"{conversation.sample_id}: step {number}"
                    requests[key] = (name, step_body(check.model, chat, classes, tiling))
                    preferred.append(number_of_question)
        answers = self.client.complete(requests.values(), preferred=preferred)
        logits: dict[_Step, Tensor] = {}
        for (key, (name, _)), answer in zip(requests.items(), answers, strict=True):
            try:
                logits[key] = classes.read(answer)
            except MissingClassError as error:
                raise MissingClassError(f"{name}: {' or '.join(self.client.base_urls)}: {error}") from error
        return [torch.stack([logits[key] for key in of_conversation]) for of_conversation in keys]


def only_model(client: ServerClient) -> str:
    """The name of the only model that the first server holds; waits for a server that is not up yet.

    Raises:
        ServerError: If it does not say.
        ValueError: If it holds several.
    """
    begin = time.monotonic()
    while True:
        try:
            names = client.models()
            break
        except ServerError as error:
            if error.status is not None or time.monotonic() - begin > client.patience:
                raise
            time.sleep(min(_PAUSE, client.patience))
    if len(names) != 1:
        raise ValueError(f"{client.base_urls[0]} holds {len(names)} models, {', '.join(names)}; name one: server.model")
    return names[0]
