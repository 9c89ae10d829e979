"""Response scores as rewards: of a model in this process, or of servers that hold it."""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.storage.images import decoded
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.process_reward import ProcessRewardModel, QuestionWithResponses, RewardModelServer
from lightning_modules.scoring.responses import read_responses
from lightning_modules.servers.errors import RequestRefusedError

logger = logging.getLogger(__name__)


class ResponseRewards:
    """The reward of a response is its response score.

    Responses that cannot be scored have the lowest score that the model could give, with a warning: a policy may write
    what reads as a special token or as a turn of the conversation, and must gain nothing by it.

    Args:
        model_name_or_path: Exported reward model.
        aggregation: From step scores to the reward: ``mean``, ``min``, ``max``, ``last`` or ``product``. By default
            that of the model.
        server: Servers that hold the model; without any it is loaded here.
        device: Device of a model that is loaded here; by default the current GPU, or the CPU if there is none.
        **options: Further arguments of :class:`ProcessRewardModel`.
    """

    def __init__(
        self,
        model_name_or_path: str,
        aggregation: Aggregation | None = None,
        server: RewardModelServer | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        self.model = ProcessRewardModel.from_pretrained(
            model_name_or_path, aggregation=aggregation, server=server, **options
        )
        self.model.requires_grad_(requires_grad=False)
        self._device = device
        self._texts_only = copy.copy(self.model.encoder)
        self._texts_only.encodes_pictures = False
        self._lock = threading.Lock()

    @property
    def aggregation(self) -> Aggregation:
        """How step scores become a reward."""
        return self.model.protocol.aggregation

    def __call__(self, asked: Sequence[QuestionWithResponses]) -> list[list[float]]:
        """Rewards of the responses to each question; may be called by several threads.

        The same question with the same pictures is read once, however often it is given.

        Args:
            asked: Questions, each with at least one response. Their names are in errors.

        Raises:
            ValueError: If a question or its pictures cannot be used; names the question.
            ServerError: If a server does not answer.
        """
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, each in enumerate(asked):
            groups.setdefault((each.question, *map(_digest, _pictures(each))), []).append(index)
        lowest = self.model.protocol.score_range[0]
        rewards = [[lowest] * len(each.responses) for each in asked]
        wanted: list[QuestionWithResponses] = []
        places: list[list[tuple[int, int]]] = []
        for indices in groups.values():
            first = asked[indices[0]]
            self._check_question(first)
            found = [
                (index, number)
                for index in indices
                for number, response in enumerate(asked[index].responses)
                if self._is_readable(asked[index], response)
            ]
            if found:
                wanted.append(first._replace(responses=[asked[index].responses[number] for index, number in found]))
                places.append(found)
        # In a distributed run all ranks score together, so one without any readable response scores something, too.
        scored = self._scores(wanted or [asked[0]._replace(responses=["1"])])
        for found, scores in zip(places, scored, strict=False):
            for (index, number), score in zip(found, scores, strict=True):
                rewards[index][number] = score
        return rewards

    def _scores(self, asked: Sequence[QuestionWithResponses]) -> list[list[float]]:
        if self.model.served is not None:
            try:
                return [scored.response_scores for scored in self.model.score_questions(asked)]
            except RequestRefusedError as error:
                return self._one_by_one(asked, error)
        with self._lock:
            # Trainers choose the GPU of a process only after the reward function was made.
            self.model.to(self._device or ("cuda" if torch.cuda.is_available() else "cpu"))
            return [scored.response_scores for scored in self.model.score_questions(asked)]

    def _one_by_one(self, asked: Sequence[QuestionWithResponses], error: RequestRefusedError) -> list[list[float]]:
        """Scores where a server refuses some responses, for instance too long ones: these have the lowest score.

        Raises:
            RequestRefusedError: If it refuses all of them.
        """
        scores: list[list[float]] = []
        num_scored = 0
        for each in asked:
            scores.append([])
            for response in each.responses:
                try:
                    (scored,) = self.model.score_questions([each._replace(responses=[response])])
                    scores[-1] += scored.response_scores
                    num_scored += 1
                except RequestRefusedError as refusal:
                    logger.warning("%s: a response has the lowest score, as it is refused: %s", each.name, refusal)
                    scores[-1].append(self.model.protocol.score_range[0])
        if not num_scored:
            raise error
        return scores

    def _check_question(self, asked: QuestionWithResponses) -> None:
        """Refuse what is wrong with a question, whatever the responses."""
        if IMAGE_PLACEHOLDER in asked.question and not _pictures(asked):
            raise ValueError(
                f"{asked.name}: the question has the placeholder {IMAGE_PLACEHOLDER}, but no picture is given with it"
            )
        self._read(asked, "1")

    def _is_readable(self, asked: QuestionWithResponses, response: str) -> bool:
        try:
            self._read(asked, response)
        except ValueError as error:
            logger.warning("a response has the lowest reward, as it cannot be scored: %s", error)
            return False
        return True

    def _read(self, asked: QuestionWithResponses, response: str) -> None:
        read_responses(asked._replace(responses=[response]), self._texts_only, self.model.protocol)


def _pictures(asked: QuestionWithResponses) -> Sequence[Image.Image]:
    images = asked.images
    return [images] if isinstance(images, Image.Image) else images or []


def _digest(image: Image.Image) -> str:
    """Tells pictures apart by their content: libraries decode the picture of a row again for each sample."""
    pixels = decoded(image, "picture")
    return hashlib.blake2b(repr(pixels.size).encode() + pixels.tobytes(), digest_size=16).hexdigest()
