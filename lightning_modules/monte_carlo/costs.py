"""What an annotation has spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.generation.engine import GeneratedText


@dataclass
class Costs:
    """Of one prompt, or summed up.

    Attributes:
        requests: Requests that were answered.
        solutions: Sampled solutions.
        continuations: Sampled continuations.
        surplus: Those of them that do not count, since the stopping rule had seen enough before them.
        prompt_tokens: Tokens of the requests' prompts, image tokens and partial solutions included, once a request.
            Engines that keep what prompts share compute fewer.
        completion_tokens: Sampled tokens.
        seconds: Wall time of a rank.
    """

    requests: int = 0
    solutions: int = 0
    continuations: int = 0
    surplus: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def add(self, texts: Sequence[GeneratedText], *, is_solution: bool) -> None:
        """Count the answer of a request."""
        self.requests += 1
        if is_solution:
            self.solutions += len(texts)
        else:
            self.continuations += len(texts)
        self.prompt_tokens += texts[0].prompt_tokens
        self.completion_tokens += sum(text.completion_tokens for text in texts)
