"""Questions with responses that are to be scored, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from datamodules.conversation.candidates import EncodedCandidates, encode_candidates
from datamodules.conversation.encoder import ConversationEncoder
from datamodules.conversation.steps import response_steps
from datamodules.storage.images import decoded
from lightning_modules.protocol import Protocol


class QuestionWithResponses(NamedTuple):
    """A question and N responses to it.

    Attributes:
        images: One image, several (``<image>`` in the question says where), or None.
        question: Its text. A model that reads questions ``bare`` leaves out an instruction that is known; one that
            reads them ``as_asked`` is to be given what the policy was asked.
        responses: N solutions whose steps are separated by blank lines. A blank one is one empty step, as in the
            released scorer.
        name: Of the question, for errors.
    """

    images: Image.Image | Sequence[Image.Image] | None
    question: str
    responses: Sequence[str]
    name: str = "score()"


@dataclass(frozen=True)
class ScoredResponses:
    """Scores of N responses to one question.

    Attributes:
        steps: N lists of the steps that were scored, after merging.
        step_scores: N lists with one score per step, in the protocol's ``score_range``: [0, 1] unless the objective
            says otherwise.
        response_scores: N scores, the aggregated step scores.
        step_uncertainties: N lists with the standard deviation of what each step score estimates, before any
            calibration; None if the model learns none.
    """

    steps: list[list[str]]
    step_scores: list[list[float]]
    response_scores: list[float]
    step_uncertainties: list[list[float]] | None = None


def read_responses(
    asked: QuestionWithResponses, encoder: ConversationEncoder, protocol: Protocol
) -> tuple[list[list[str]], EncodedCandidates]:
    """The steps of the responses, and their conversations.

    Args:
        asked: The question with its responses.
        encoder: Of the model.
        protocol: Of the model.

    Raises:
        TypeError: If an image is not a PIL image, or the responses are a single text.
        ValueError: If there are no responses, an image cannot be used, be it by this model's processor alone, or images
            and placeholders do not match.
    """
    images, question, responses, name = asked
    if isinstance(responses, str):
        raise TypeError(f"{name}: responses must be a list of texts, got a text; put it into a list")
    rules = protocol.reading_rules
    given = [images] if isinstance(images, Image.Image | str) else list(images or [])
    opened = [decoded(image, f"{name}: picture {number}", rules.pictures) for number, image in enumerate(given)]
    steps = [
        response_steps(
            text, protocol.max_steps, as_one_step=protocol.response_as_one_step, white_space=rules.white_space
        )
        for text in responses
    ]
    return steps, encode_candidates(encoder, opened, rules.question(question), steps, name)
