"""Answers of an engine to requests that are all known, each with its own parameters and number of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_modules.generation.engine import (
    GeneratedText,
    GenerationEngine,
    GenerationRequest,
    PromptRefusedError,
)
from lightning_modules.generation.listed_requests import ListedRequests
from lightning_modules.generation.sampling import SamplingParameters


def answers_to(
    engine: GenerationEngine,
    requests: Sequence[GenerationRequest],
    parameters: SamplingParameters,
    leave_out: Callable[[int, PromptRefusedError], None] | None = None,
) -> list[list[GeneratedText]]:
    """Answer every request; with sharded weights all ranks must call this together, with any number of requests.

    Args:
        engine: What samples.
        requests: With any numbers of samples.
        parameters: For requests that have none of their own.
        leave_out: See :class:`ListedRequests`.

    Returns:
        For each request, for each of its sample keys, one text; none for a request that is left out.

    Raises:
        PromptRefusedError: If the engine cannot answer a request, and it is not left out.
    """
    source = ListedRequests(requests, leave_out)
    engine.serve(source, parameters)
    return [source.texts.get(number, []) for number in range(len(requests))]
