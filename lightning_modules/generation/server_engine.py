"""Sampling through OpenAI-compatible servers: vLLM, SGLang, LMDeploy and others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import GENERATION_CONFIG_NAME

from datamodules.conversation.tiles import tiling
from lightning_modules.generation.engine import GeneratedText, GenerationRequest, PromptRefusedError, RequestSource
from lightning_modules.generation.listed_requests import ListedRequests
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.server_check import CheckPrompts, PromptCheck, with_fields
from lightning_modules.generation.server_flight import Flight
from lightning_modules.generation.server_probabilities import ServerProbabilities
from lightning_modules.generation.server_requests import Piece, body_of
from lightning_modules.generation.token_probabilities import Options
from lightning_modules.servers.client import ServerClient
from lightning_modules.servers.errors import RequestRefusedError, ServerError
from lightning_modules.servers.messages import PictureEncoder
from lightning_modules.servers.worker import Usage

logger = logging.getLogger(__name__)

_MOST_REFUSED = 10
"""So many refused prompts, and not one that was answered, are a fault of the settings and not of the prompts."""


class ServerEngine:
    """Samples from a model that servers hold; the module's checkpoint needs only the files of its processor.

    Many requests are in flight at once, to the server with the fewest outstanding ones; see
    :class:`lightning_modules.servers.client.ServerClient` for what is tried again, and for how long. A sample depends
    on the seed and its key alone, as far as the server's own arithmetic is the same in every batch.

    Args:
        base_urls: Addresses as in ``http://host:8000/v1``, all of the same model: a list, or a text with commas.
        model: Its name there.
        concurrency: Most requests that a server answers at once.
        api_key_variable: Name of the environment variable that holds the API key; none is sent by default.
        samples_per_request: Most samples that one request asks for. A server that refuses or cuts that is asked for
            fewer.
        timeout: Seconds that one answer may take.
        patience: Seconds for which no server may answer before the run ends with an error.
        max_attempts: How often a request may fail on servers that answer others.
        needs_processor: Whether the processor is loaded. Without it chats are sent as messages, and nothing checks
            prompts.
        check_prompts: What to do if the server reads a prompt in other tokens than the processor: raise an error,
            warn, or do not look. The first prompt of each kind is looked at. Whether partial solutions are continued
            is also checked, and an error in either case.
        extra_body: Fields of every request, over those that are sent by default; null leaves one out.

    Attributes:
        client: Sends the requests.
        prompt_check: Looks at how the servers read prompts.
        has_answered: Whether a request was ever answered.

    Raises:
        ValueError: If an address is none, or a number is out of range.
    """

    has_own_model = True
    needs_all_ranks = False

    def __init__(
        self,
        base_urls: list[str] | str,
        model: str,
        concurrency: int = 32,
        api_key_variable: str | None = None,
        samples_per_request: int = 16,
        timeout: float = 1800.0,
        patience: float = 600.0,
        max_attempts: int = 10,
        needs_processor: bool = True,
        check_prompts: CheckPrompts = "error",
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        if samples_per_request < 1:
            raise ValueError(f"samples_per_request must be at least 1, got {samples_per_request}")
        urls = [url.strip() for url in base_urls.split(",")] if isinstance(base_urls, str) else base_urls
        self.client = ServerClient(urls, concurrency, api_key_variable, timeout, patience, max_attempts)
        self.model = model
        self.samples_per_request = samples_per_request
        self.needs_processor = needs_processor
        self.extra_body = dict(extra_body or {})
        self.prompt_check = PromptCheck(self.client, model, self.extra_body, check_prompts)
        self.processor: ProcessorMixin | None = None
        self._banned_ids: list[int] = []
        self.pictures = PictureEncoder()
        self.has_answered = False
        self._num_refused = 0
        self._told: ServerProbabilities | None = None

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What samples depend on; not where the servers are."""
        return {"model": self.model, **({"extra_body": self.extra_body} if self.extra_body else {})}

    @property
    def usage(self) -> Usage:
        """What the servers have counted."""
        return self.client.usage

    # The types are those of the interface, which configurations are checked against; both may be None.
    def attach(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Take the processor; see :class:`lightning_modules.generation.engine.GenerationEngine`.

        Raises:
            ValueError: If there is none, and the engine needs it.
        """
        given: ProcessorMixin | None = processor
        if given is None and self.needs_processor:
            raise ValueError("ServerEngine got no processor; give one, or set needs_processor to false")
        if given is not self.processor:
            self.processor = self.prompt_check.processor = given if self.needs_processor else None
            self._banned_ids = banned_ids(given) if given is not None else []

    def sample(
        self, requests: Sequence[GenerationRequest], parameters: SamplingParameters
    ) -> list[list[GeneratedText]]:
        """Answer every prompt; see :class:`lightning_modules.generation.engine.GenerationEngine`.

        Raises:
            ValueError: If the requests differ in their number of samples.
            PromptRefusedError: If a server refuses a prompt.
            ServerError: If servers do not answer.
        """
        if any(len(request.sample_keys) != len(requests[0].sample_keys) for request in requests):
            raise ValueError("requests of one batch must ask for the same number of samples")
        listed = ListedRequests(requests)
        self.serve(listed, parameters)
        return [listed.texts[number] for number in range(len(requests))]

    def serve(self, source: RequestSource, parameters: SamplingParameters) -> None:
        """Answer the requests of a source; see :class:`lightning_modules.generation.engine.GenerationEngine`.

        The source is called by this thread only.

        Raises:
            PromptRefusedError: If a server refuses a prompt and the source does not leave it out.
            PromptMismatchError: See ``check_prompts``.
            ServerError: If servers do not answer.
        """
        Flight(self, source, parameters).run()

    def body(self, request: GenerationRequest, parameters: SamplingParameters, piece: Piece) -> dict[str, Any]:
        """The request for a piece of the samples of a prompt, as JSON.

        Raises:
            ValueError: If it bounds the tiles of pictures, and there is no processor to say how.
        """
        messages = self.pictures.chat(request.messages, request.images, request.partial_response)
        body = body_of(self.model, messages, parameters, piece)
        if request.max_tiles is not None and request.images:
            if self.processor is None:
                raise ValueError("max_tiles needs the processor of the served model: set needs_processor to true")
            body["mm_processor_kwargs"] = tiling(self.processor, request.max_tiles)
        if self._banned_ids:
            body["logit_bias"] = {str(token): -100 for token in self._banned_ids}
        if self.prompt_check.is_due(request):
            body["return_token_ids"] = True
        return with_fields(body, self.extra_body)

    def option_logprobs(self, groups: Sequence[Sequence[GenerationRequest]], options: Options) -> list[list[Tensor]]:
        """See :class:`lightning_modules.generation.token_probabilities.TokenProbabilities`; a request each.

        Raises:
            ValueError: See :meth:`ServerProbabilities.of_options`; also without a processor.
            ServerError: If a request is refused, or servers do not answer.
        """
        found = iter(self._probabilities(groups).of_options([each for group in groups for each in group], options))
        return [[next(found) for _ in group] for group in groups]

    def response_logprobs(
        self, groups: Sequence[Sequence[GenerationRequest]], cut_at: int | None = None
    ) -> list[list[Tensor]]:
        """See :meth:`option_logprobs`, and :meth:`ServerProbabilities.of_responses`."""
        probabilities = self._probabilities(groups)
        end_id = probabilities.processor.tokenizer.eos_token_id
        found = iter(probabilities.of_responses([each for group in groups for each in group], end_id, cut_at))
        return [[next(found) for _ in group] for group in groups]

    def _probabilities(self, groups: Sequence[Sequence[GenerationRequest]]) -> ServerProbabilities:
        if self.processor is None:
            raise ValueError(
                "probabilities of tokens need the processor of the served model: set needs_processor to true"
            )
        if any(request.partial_response for group in groups for request in group):
            self.prompt_check.continuation()
        if self._told is None or self._told.processor is not self.processor:
            self._told = ServerProbabilities(self.client, self.processor, self._asked)
        return self._told

    def _asked(self, request: GenerationRequest, partial_response: str) -> dict[str, Any]:
        """Model, chat and tiles of a request, with another partial response."""
        messages = self.pictures.chat(request.messages, request.images, partial_response)
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        if request.max_tiles is not None and request.images and self.processor is not None:
            body["mm_processor_kwargs"] = tiling(self.processor, request.max_tiles)
        return with_fields(body, self.extra_body)

    def note_refusal(self, error: RequestRefusedError) -> PromptRefusedError:
        """The problem of a prompt; raises the error where nothing has been answered yet, and too much refused."""
        self._num_refused += 1
        if not self.has_answered and self._num_refused >= _MOST_REFUSED:
            told = f"refused this and the {self._num_refused - 1} prompts before it, and has answered none: "
            raise ServerError(error.request_id, error.url, told + error.problem, error.status) from error
        return PromptRefusedError(str(error))

    def take_fewer(self, count: int, instead_of: int) -> None:
        """Ask for fewer samples a request from now on."""
        if count < self.samples_per_request:
            logger.warning(
                "%s gives %d samples for a request of %d; it is asked for so many from now on (samples_per_request)",
                self.model,
                count,
                instead_of,
            )
            self.samples_per_request = count


def banned_ids(processor: ProcessorMixin) -> list[int]:
    """Tokens that no text may hold, as in process: of pictures, which are not there, and padding that ends no text."""
    tokenizer = processor.tokenizer
    ends = {tokenizer.eos_token_id}
    file = Path(tokenizer.name_or_path) / GENERATION_CONFIG_NAME
    if file.is_file():
        end = GenerationConfig.from_pretrained(file.parent).eos_token_id
        ends |= set(end if isinstance(end, list) else [end])
    banned = {getattr(processor, "image_token_id", None), tokenizer.pad_token_id}
    banned |= set(getattr(processor, "image_token_ids", None) or ())
    return sorted(token for token in banned - ends if token is not None)
