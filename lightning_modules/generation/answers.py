"""Answers of an engine to requests that are all known, each with its own parameters and number of samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from lightning_modules.generation.engine import GeneratedText, GenerationEngine, GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters


def answers_to(
    engine: GenerationEngine, requests: Sequence[GenerationRequest], parameters: SamplingParameters
) -> list[list[GeneratedText]]:
    """Answer every request; with sharded weights all ranks must call this together, with any number of requests.

    Args:
        engine: What samples.
        requests: Each an object of its own.
        parameters: For requests that have none of their own.

    Returns:
        For each request, for each of its sample keys, one text.
    """
    source = _KnownRequests(requests)
    engine.serve(source, parameters)
    return [source.texts[id(request)] for request in requests]


class _KnownRequests:
    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        self.texts: dict[int, list[GeneratedText]] = {}
        self._waiting = deque(requests)
        self._num_outstanding = 0

    def take(self, room: int) -> list[GenerationRequest]:
        taken: list[GenerationRequest] = []
        while self._waiting and (len(self._waiting[0].sample_keys) <= room or not (taken or self._num_outstanding)):
            taken.append(self._waiting.popleft())
            room -= len(taken[-1].sample_keys)
        self._num_outstanding += len(taken)
        return taken

    def receive(self, request: GenerationRequest, texts: Sequence[GeneratedText]) -> None:
        self._num_outstanding -= 1
        self.texts[id(request)] = list(texts)
