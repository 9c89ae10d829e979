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
"""``stop``: the model ended the text. ``length``: it was cut at ``max_new_tokens``."""


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
    """

    messages: Sequence[Mapping[str, Any]]
    images: Sequence[Image.Image]
    sample_keys: Sequence[str]
    partial_response: str = ""
    max_tiles: int | None = None


class GeneratedText(NamedTuple):
    """One sample.

    Attributes:
        text: What was sampled, without end token and without the partial response of the request.
        finish_reason: See :data:`FinishReason`.
        prompt_tokens: Length of the prompt, image tokens and partial response included.
        completion_tokens: Number of sampled tokens, the end token included.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class GenerationEngine(Protocol):
    """Samples answers to prompts."""

    @property
    def needs_all_ranks(self) -> bool:
        """Whether all ranks must call :meth:`sample` equally often, with the same limit of new tokens."""

    # `Any`, as jsonargparse tells `None` from `NoneType` and would refuse engines of modules that evaluate annotations.
    def attach(self, model: PreTrainedModel, processor: ProcessorMixin) -> Any:
        """Take the module's model and processor; called before every batch, as weights may have been replaced.

        An engine with a model of its own ignores them.
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
