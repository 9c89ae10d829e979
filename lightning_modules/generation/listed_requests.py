"""A source of requests that are all known before the first one is answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from lightning_modules.generation.engine import GeneratedText, GenerationRequest, PromptRefusedError


class ListedRequests:
    """Hands out a list of requests in order; see :class:`lightning_modules.generation.engine.RequestSource`.

    Args:
        requests: The list; the same object may stand in it twice.
        leave_out: Called with the number of a request that the engine cannot answer, and the problem. By default that
            is an error.

    Attributes:
        texts: The answers, by number of the request.
    """

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        leave_out: Callable[[int, PromptRefusedError], None] | None = None,
    ) -> None:
        self.texts: dict[int, list[GeneratedText]] = {}
        self._waiting = deque(enumerate(requests))
        self._outstanding: list[tuple[int, GenerationRequest]] = []
        self._leave_out = leave_out

    def take(self, room: int) -> list[GenerationRequest]:
        """The next requests that fit."""
        taken: list[GenerationRequest] = []
        while self._waiting and (room >= len(self._waiting[0][1].sample_keys) or not self._outstanding):
            self._outstanding.append(self._waiting.popleft())
            taken.append(self._outstanding[-1][1])
            room -= len(taken[-1].sample_keys)
        return taken

    def receive(self, request: GenerationRequest, texts: Sequence[GeneratedText]) -> None:
        """Keep the texts."""
        self.texts[self._number_of(request)] = list(texts)

    def refuse(self, request: GenerationRequest, problem: PromptRefusedError) -> None:
        """Leave the request out, or raise the problem."""
        number = self._number_of(request)
        if self._leave_out is None:
            raise problem
        self._leave_out(number, problem)

    def _number_of(self, request: GenerationRequest) -> int:
        place = next(place for place, (_, each) in enumerate(self._outstanding) if each is request)
        return self._outstanding.pop(place)[0]
