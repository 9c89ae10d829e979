"""The interface of engines that sample text: requests in, texts with finish reason and token counts out.

A module such as :class:`lightning_modules.policy.Policy` takes an engine by class path. To add one, write a class with
the members of :class:`GenerationEngine`; it needs no base class, and its constructor takes what its YAML gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from lightning_modules.generation.sampling import SamplingParameters

FinishReason = Literal["stop", "length"]
"""``stop``: the model ended the text, or wrote a stop string. ``length``: it was cut at ``max_new_tokens``."""


class PromptRefusedError(ValueError):
    """An engine cannot answer a prompt, such as one that is too long; the text names the prompt and says why."""


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt, to be answered several times.

    Attributes:
        messages: The chat before the answer, in the format of chat templates with typed content parts; an image stands
            where a part ``{"type": "image"}`` is.
        images: The images of these parts, in order.
        sample_keys: One for each sample. With the seed a key fixes the random numbers of its sample.
        partial_response: Beginning of the answer, to be continued; samples do not repeat it.
        max_tiles: Most tiles that each picture is cut into; the processor's own number by default.
        parameters: How its samples are drawn, where that differs from the parameters of the whole call.
    """

    messages: Sequence[Mapping[str, Any]]
    images: Sequence[Image.Image]
    sample_keys: Sequence[str]
    partial_response: str = ""
    max_tiles: int | None = None
    parameters: SamplingParameters | None = None


class GeneratedText(NamedTuple):
    """One sample.

    Attributes:
        text: What was sampled, without end token and without the partial response of the request.
        finish_reason: See :data:`FinishReason`.
        prompt_tokens: Length of the prompt, image tokens and partial response included.
        completion_tokens: Number of sampled tokens, the end token included.
        stopped_at: The stop string before which the text was cut; None if it was not.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    stopped_at: str | None = None


class RequestSource(Protocol):
    """Hands out requests while others are being answered, so that an answer can decide what is asked next."""

    def take(self, room: int) -> Sequence[GenerationRequest]:
        """The next requests, which ask for at most ``room`` samples together.

        Nothing is returned while the source waits for answers, and when all is done. A request that asks for more than
        ``room`` samples is returned alone if no answer is outstanding.
        """

    def receive(self, request: GenerationRequest, texts: Sequence[GeneratedText]) -> None:
        """Take the texts of a request that was handed out, one for each of its sample keys.

        Requests are answered in any order, each once.
        """

    def refuse(self, request: GenerationRequest, problem: PromptRefusedError) -> None:
        """Take note that a request that was handed out gets no texts.

        A source without this method is for engines that answer everything; others raise the problem.

        Raises:
            PromptRefusedError: The problem, if the request must not be left out.
        """


class GenerationEngine(Protocol):
    """Samples answers to prompts.

    An engine with a model of its own may say so: with an attribute ``has_own_model`` that is true, modules do not load
    the weights of their checkpoint; with one ``needs_processor`` that is false, not its processor either. What else
    its texts depend on is its ``prediction_settings``, see :class:`datamodules.interfaces.PredictionSettings`.
    """

    @property
    def needs_all_ranks(self) -> bool:
        """Whether all ranks must call :meth:`sample` equally often, with the same limit of new tokens."""

    # `Any`, as jsonargparse tells `None` from `NoneType` and would refuse engines of modules that evaluate annotations.
    def attach(self, model: PreTrainedModel, processor: ProcessorMixin) -> Any:
        """Take the module's model and processor; called before every batch, as weights may have been replaced.

        An engine that has asked for none, see above, gets None in their place.
        """

    def sample(
        self, requests: Sequence[GenerationRequest], parameters: SamplingParameters
    ) -> list[list[GeneratedText]]:
        """Answer every prompt.

        Args:
            requests: Prompts with the same number of samples each.
            parameters: Temperature and the like.

        Returns:
            For each request, for each of its sample keys, one text.

        Raises:
            ValueError: If the requests differ in their number of samples.
        """

    # See `attach`.
    def serve(self, source: RequestSource, parameters: SamplingParameters) -> Any:
        """Answer requests until the source has none left and no answer is outstanding.

        How many samples are in flight at once is the engine's to decide. A sample is the same as :meth:`sample` draws.
        With sharded weights all ranks must call this together, each with a source of its own.

        Args:
            source: See :class:`RequestSource`.
            parameters: Temperature and the like, for requests that have none of their own.
        """


def has_own_model(engine: GenerationEngine) -> bool:
    """Whether an engine needs no weights in this process."""
    return bool(getattr(engine, "has_own_model", False))


def needs_processor(engine: GenerationEngine) -> bool:
    """Whether an engine needs the processor of the checkpoint."""
    return bool(getattr(engine, "needs_processor", True))
