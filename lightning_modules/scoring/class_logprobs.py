"""Ways to ask a server for the log-probabilities of the class tokens, and how its answers are read.

A top k of log-probabilities is no such way: a reward model that was trained with the step head alone does not push
other tokens down, so that a class token is often missing from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, tensor

_MISSING = -9999.0
"""What vLLM writes where it has no log-probability."""
_NEXT_TOKEN = {
    "max_tokens": 1,
    "temperature": 0,
    # What a folder's generation_config.json may say otherwise would change processed log-probabilities.
    "top_p": 1,
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "add_generation_prompt": True,
    "logprobs": True,
    "return_tokens_as_token_ids": True,
}


class MissingClassError(ValueError):
    """An answer does not hold the log-probabilities of all class tokens."""


@dataclass(frozen=True)
class ClassLogprobs:
    """The log-probabilities of K tokens after a chat.

    Attributes:
        token_ids: The K class tokens.
        by_ids: Ask for the tokens by id (``logprob_token_ids``). Otherwise let the server choose among them
            (``allowed_token_ids``) and ask for its best K: they are all there if the server reports probabilities as
            they are after that restriction (vLLM's ``--logprobs-mode processed_logprobs``).
    """

    token_ids: tuple[int, ...]
    by_ids: bool = True

    @property
    def name(self) -> str:
        """For messages."""
        return "logprob_token_ids" if self.by_ids else "allowed_token_ids with processed_logprobs"

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the request, beside the chat and the model."""
        ids = list(self.token_ids)
        if self.by_ids:
            return {**_NEXT_TOKEN, "logprob_token_ids": ids}
        return {**_NEXT_TOKEN, "allowed_token_ids": ids, "top_logprobs": len(ids)}

    def read(self, answer: Mapping[str, Any]) -> Tensor:
        """The K log-probabilities in an answer, float32. They are logits of the classes, up to a constant.

        Raises:
            MissingClassError: If one is missing, or if they are not what was asked for.
        """
        found = _logprobs_by_id(answer)
        missing = [token_id for token_id in self.token_ids if found.get(token_id, _MISSING) <= _MISSING]
        if missing:
            raise MissingClassError(f"the answer lacks the log-probabilities of the class tokens {missing}")
        values = [found[token_id] for token_id in self.token_ids]
        total = sum(map(math.exp, values))
        if not self.by_ids and abs(total - 1) > 1e-2:
            raise MissingClassError(
                f"the class tokens have {total:.3g} of the probability although no others were allowed, so that the "
                f"server reports probabilities as they were before"
            )
        return tensor(values)


def _logprobs_by_id(answer: Mapping[str, Any]) -> dict[int, float]:
    try:
        (token,) = answer["choices"][0]["logprobs"]["content"]
        entries: Sequence[Mapping[str, Any]] = [*(token.get("top_logprobs") or []), token]
        return {
            int(entry["token"].removeprefix("token_id:")): float(entry["logprob"])
            for entry in entries
            if entry["token"].startswith("token_id:")
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise MissingClassError(f"the answer holds no log-probabilities of one token: {error!r}") from error
