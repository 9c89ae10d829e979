"""How likely tokens are, as OpenAI-compatible servers tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin

from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.server_check import mismatch, prompt_ids
from lightning_modules.generation.token_probabilities import Options, OptionTokens, option_tokens, response_tokens
from lightning_modules.scoring.class_logprobs import ClassLogprobs, MissingClassError
from lightning_modules.servers.client import ServerClient
from lightning_modules.servers.errors import RequestRefusedError

_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
_PROMPT_LOGPROBS = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0, "add_generation_prompt": True}


class ServerProbabilities:
    """Asks servers for log-probabilities of tokens.

    Args:
        client: Of the servers.
        processor: Of the served model; says which tokens are meant.
        bodies: Makes the parts of a request that say what is asked: model, messages, tiles.
    """

    def __init__(self, client: ServerClient, processor: ProcessorMixin, bodies: Any) -> None:
        self.client, self.processor, self.bodies = client, processor, bodies
        self._by_ids: bool | None = None

    def of_options(self, requests: Sequence[GenerationRequest], options: Options) -> list[Tensor]:
        """For each request (K,) log-probabilities of the options; up to a constant from servers that give no more.

        Raises:
            ValueError: If two options begin with the same token, white space before them cannot be told apart, or a
                server gives no log-probabilities of chosen tokens.
            ServerError: If a request is refused, or servers do not answer.
        """
        tokens = [option_tokens(self.processor, request, options) for request in requests]
        if not requests:
            return []
        if self._by_ids is None:
            self._by_ids = self._can_ask_by_ids(requests[0], tokens[0])
        asked = [self._option_body(*pair, self._by_ids) for pair in zip(requests, tokens, strict=True)]
        answers = self.client.complete(asked)
        return [
            self._read(answer, each, name, self._by_ids)
            for answer, each, (name, _) in zip(answers, tokens, asked, strict=True)
        ]

    def _option_body(
        self, request: GenerationRequest, tokens: OptionTokens, by_ids: bool
    ) -> tuple[str, dict[str, Any]]:
        partial = tokens.partial
        if partial is None:
            raise ValueError(
                f"{request.sample_keys[0]}: the end of {request.partial_response[-20:]!r} and an option are one token, "
                f"which a server cannot be asked about"
            )
        ids = tuple(token for option in tokens.options for token in option)
        body = {**self.bodies(request, partial), **ClassLogprobs(ids, by_ids).parameters}
        return request.sample_keys[0], {**body, **(_CONTINUE if partial else {})}

    def _can_ask_by_ids(self, request: GenerationRequest, tokens: OptionTokens) -> bool:
        problems = []
        for by_ids in (True, False):
            name, body = self._option_body(request, tokens, by_ids)
            try:
                (answer,) = self.client.complete([(name, {**body, "return_token_ids": True})])
                self._read(answer, tokens, name, by_ids)
            except (RequestRefusedError, MissingClassError) as error:
                problems.append(str(error))
                continue
            read = replace(request, partial_response=tokens.partial or "")
            if (told := mismatch(answer, prompt_ids(self.processor, read), self.processor)) is not None:
                raise ValueError(
                    f"{name}: the server reads this prompt as {told}; the folder of the processor must be that of the "
                    f"served model, with the same chat template"
                )
            return by_ids
        raise ValueError(
            f"{', '.join(self.client.base_urls)}: no exact way to ask for the probabilities of chosen tokens. Take a "
            f"vLLM that knows logprob_token_ids, or start it with --logprobs-mode processed_logprobs. "
            f"{'. '.join(problems)}"
        )

    def _read(self, answer: Mapping[str, Any], tokens: OptionTokens, name: str, by_ids: bool) -> Tensor:
        ids = tuple(token for option in tokens.options for token in option)
        try:
            found = ClassLogprobs(ids, by_ids).read(answer)
        except MissingClassError as error:
            raise MissingClassError(f"{name}: {', '.join(self.client.base_urls)}: {error}") from error
        pieces = found.split([len(option) for option in tokens.options])
        return torch.stack([piece.logsumexp(0) for piece in pieces])

    def of_responses(self, requests: Sequence[GenerationRequest], end_id: int, cut_at: int | None) -> list[Tensor]:
        """For each request (T,) log-probabilities of the tokens of its partial response, and of the end.

        Raises:
            ValueError: If a server does not tell log-probabilities of prompts (``prompt_logprobs``), or reads a
                response in other tokens than the processor.
            ServerError: If a request is refused, or servers do not answer.
        """
        bodies = []
        for request in requests:
            whole = {**self.bodies(request, request.partial_response), **_PROMPT_LOGPROBS}
            whole |= {"logprobs": True, "logprob_token_ids": [end_id], "return_tokens_as_token_ids": True}
            bodies.append((request.sample_keys[0], {**whole, **(_CONTINUE if request.partial_response else {})}))
        return [
            self._of_response(answer, request, end_id, cut_at)
            for answer, request in zip(self.client.complete(bodies), requests, strict=True)
        ]

    def _of_response(
        self, answer: Mapping[str, Any], request: GenerationRequest, end_id: int, cut_at: int | None
    ) -> Tensor:
        tokens = response_tokens(self.processor, request, cut_at)
        own = tokens.row[tokens.begin :]
        where = f"{request.sample_keys[0]}: {', '.join(self.client.base_urls)}"
        entries = answer.get("prompt_logprobs")
        if not isinstance(entries, list) or len(entries) < len(own):
            raise ValueError(
                f"{where}: the server does not tell how likely the tokens of a prompt are (prompt_logprobs); vLLM does"
            )
        logprobs = []
        for token, entry in zip(own, entries[len(entries) - len(own) :], strict=True):
            found = (entry or {}).get(str(token))
            if found is None:
                raise ValueError(f"{where}: the server reads the response in other tokens than the processor")
            logprobs.append(float(found["logprob"]))
        if tokens.has_end:
            logprobs.append(float(ClassLogprobs((end_id,)).read(answer)[0]))
        return torch.tensor(logprobs)
