"""Sampling with the `transformers` model of the module: questions are read once, and samples decode together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, ProcessorMixin

from datamodules.interfaces import PredictionSettings
from lightning_modules.generation.engine import GeneratedText, GenerationEngine, GenerationRequest, RequestSource
from lightning_modules.generation.listed_requests import ListedRequests
from lightning_modules.generation.row_attention import row_attention_obstacle
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.serving import Serving, Vocabulary
from lightning_modules.generation.token_probabilities import Options, option_logprobs, response_logprobs


class TransformersEngine:
    """Samples in this process from the model that it is attached to; the default engine.

    With sharded weights every forward needs all ranks: they must call :meth:`sample` or :meth:`serve` equally often.
    Ranks whose texts have ended, or that have no requests, go on until the others' have.

    Args:
        max_samples_at_once: Most texts that are decoded at once; bounds memory.
        max_prefix_tokens: Most tokens of questions and partial solutions that are kept after their last text has ended,
            as more requests may begin with them; those in use are counted, but never forgotten.

    Raises:
        ValueError: If ``max_samples_at_once`` is below 1, or ``max_prefix_tokens`` below 0.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    needs_all_ranks: bool = False

    def __init__(self, max_samples_at_once: int = 512, max_prefix_tokens: int = 65536) -> None:
        if max_samples_at_once < 1:
            raise ValueError(f"max_samples_at_once must be at least 1, got {max_samples_at_once}")
        if max_prefix_tokens < 0:
            raise ValueError(f"max_prefix_tokens must be at least 0, got {max_prefix_tokens}")
        self.max_samples_at_once = max_samples_at_once
        self.max_prefix_tokens = max_prefix_tokens

    @classmethod
    def of(cls, model: PreTrainedModel, processor: ProcessorMixin) -> TransformersEngine:
        """An engine that is attached to a model; see :meth:`attach`."""
        engine = cls()
        engine.attach(model, processor)
        return engine

    def attach(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Sample from a model from now on.

        Args:
            model: An image-text-to-text or causal language model with its language-model head.
            processor: Its processor.

        Raises:
            ValueError: If samples cannot share what they begin with in this model, or no token ends a text.
        """
        self.model = model
        self.processor = processor
        self.needs_all_ranks = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        tokenizer = processor.tokenizer
        if obstacle := row_attention_obstacle(model):
            raise ValueError(f"cannot sample from a {model.config.model_type!r} model here: {obstacle}")
        end = model.generation_config.eos_token_id
        end = tokenizer.eos_token_id if end is None else end
        if end is None:
            raise ValueError(
                "neither the generation configuration nor the tokenizer says which token ends a text; put "
                "eos_token_id into the generation_config.json of the checkpoint"
            )
        self.end_ids = torch.tensor(end if isinstance(end, list) else [end])
        self.pad_id = tokenizer.pad_token_id
        image_ids = {getattr(processor, "image_token_id", None), getattr(model.config, "image_token_id", None)}
        banned = {*image_ids, *(getattr(processor, "image_token_ids", None) or []), self.pad_id} - {None}
        # A sampled image token would have no image behind it and break every later forward.
        self.banned_ids = torch.tensor(sorted(banned - set(self.end_ids.tolist())), dtype=torch.long)

    def sample(
        self, requests: Sequence[GenerationRequest], parameters: SamplingParameters
    ) -> list[list[GeneratedText]]:
        """Answer every prompt; see :class:`lightning_modules.generation.engine.GenerationEngine`.

        A sample depends on the seed and its key alone, not on the rest of the batch.
        """
        if any(len(request.sample_keys) != len(requests[0].sample_keys) for request in requests):
            raise ValueError("requests of one batch must ask for the same number of samples")
        listed = ListedRequests(requests)
        self.serve(listed, parameters)
        return [listed.texts[number] for number in range(len(requests))]

    def serve(self, source: RequestSource, parameters: SamplingParameters) -> None:
        """Answer the requests of a source; see :class:`lightning_modules.generation.engine.GenerationEngine`."""
        Serving(
            self.model,
            self.processor,
            Vocabulary(self.end_ids, self.banned_ids, self.pad_id or 0),
            source,
            parameters,
            self.max_samples_at_once,
            self.max_prefix_tokens,
            self.needs_all_ranks,
        ).run()

    def option_logprobs(self, groups: Sequence[Sequence[GenerationRequest]], options: Options) -> list[list[Tensor]]:
        """See :class:`lightning_modules.generation.token_probabilities.TokenProbabilities`.

        With sharded weights all ranks must call it together, each with at least one request.
        """
        return option_logprobs(self.model, self.processor, groups, options, self.needs_all_ranks)

    def response_logprobs(
        self, groups: Sequence[Sequence[GenerationRequest]], cut_at: int | None = None
    ) -> list[list[Tensor]]:
        """See :meth:`option_logprobs`. Of several end tokens it is the tokenizer's that ends responses."""
        ends, usual = self.end_ids.tolist(), self.processor.tokenizer.eos_token_id
        end_id = usual if usual in ends else ends[0]
        return response_logprobs(self.model, self.processor, groups, end_id, cut_at, self.needs_all_ranks)


def engine_settings(engine: GenerationEngine) -> dict[str, Any]:
    """What predictions depend on because of their engine: its class, unless it is the default one, and its settings."""
    kind = type(engine)
    # Predictions that were begun before engines could be chosen hold no such keys.
    if kind is TransformersEngine:
        return {}
    own = {"engine_settings": engine.prediction_settings} if isinstance(engine, PredictionSettings) else {}
    return {"engine": f"{kind.__module__}.{kind.__qualname__}", **own}
