"""Sampling with the `transformers` model of the module: one prefill per prompt, then all samples decode together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import BatchFeature, DynamicCache, PreTrainedModel, ProcessorMixin

from datamodules.conversation.tiles import model_inputs
from datamodules.interfaces import PredictionSettings
from datamodules.policy.prompts import render_prompt
from lightning_modules.distributed.sharding import computing_device
from lightning_modules.generation.batches import serve_in_batches
from lightning_modules.generation.engine import GeneratedText, GenerationEngine, GenerationRequest, RequestSource
from lightning_modules.generation.sampling import SamplingParameters, pick_tokens, uniform_draws
from lightning_modules.generation.stop_strings import cut_at_stop
from lightning_modules.model.positions import prompt_positions
from lightning_modules.model.step_head import vocabulary_logits
from lightning_modules.scoring.cache import continue_from
from lightning_modules.scoring.memory import most_on_any_rank

# Layers with a sliding window keep all tokens here, and mask.
_GROWING_LAYERS = {"DynamicLayer", "DynamicSlidingWindowLayer"}


class TransformersEngine:
    """Samples in this process from the model that it is attached to; the default engine.

    With sharded weights every forward needs all ranks: they must call :meth:`sample` equally often, with the same limit
    of new tokens. Ranks whose texts have ended go on until the others' have.

    Args:
        max_samples_at_once: Most texts that :meth:`serve` decodes at once; bounds memory.

    Raises:
        ValueError: If ``max_samples_at_once`` is below 1.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    needs_all_ranks: bool = False

    def __init__(self, max_samples_at_once: int = 256) -> None:
        if max_samples_at_once < 1:
            raise ValueError(f"max_samples_at_once must be at least 1, got {max_samples_at_once}")
        self.max_samples_at_once = max_samples_at_once

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
            ValueError: If the model's cache cannot be continued several times, or no token ends a text.
        """
        self.model = model
        self.processor = processor
        self.needs_all_ranks = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        tokenizer = processor.tokenizer
        layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
        if others := {type(layer).__name__ for layer in layers} - _GROWING_LAYERS:
            raise ValueError(
                f"cannot sample from a {model.config.model_type!r} model here: its cache has layers of type "
                f"{', '.join(sorted(others))}, which carry a state and cannot be continued several times"
            )
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

    @torch.no_grad()
    def sample(
        self, requests: Sequence[GenerationRequest], parameters: SamplingParameters
    ) -> list[list[GeneratedText]]:
        """Answer every prompt; see :class:`lightning_modules.generation.engine.GenerationEngine`.

        A sample depends on the seed and its key alone, not on the rest of the batch.
        """
        if not requests:
            return []
        repeats = len(requests[0].sample_keys)
        if any(len(request.sample_keys) != repeats for request in requests):
            raise ValueError("requests of one batch must ask for the same number of samples")
        inputs = self._encode(requests)
        last_hidden_states, prefix, positions, next_position = self._read(inputs)
        keys = [key for request in requests for key in request.sample_keys]
        uniform = uniform_draws(parameters.seed, keys, parameters.max_new_tokens).to(last_hidden_states.device)
        tokens = self._decode(
            vocabulary_logits(self.model, last_hidden_states).repeat_interleave(repeats, 0),
            continue_from(prefix, repeats, parameters.max_new_tokens),
            inputs["attention_mask"].repeat_interleave(repeats, 0),
            next_position.repeat_interleave(repeats, 0),
            positions.shape[:-2],
            uniform,
            parameters,
        )
        lengths = inputs["attention_mask"].sum(-1).repeat_interleave(repeats, 0).tolist()
        texts = [cut_at_stop(text, parameters.stop) for text in self._to_text(tokens, lengths)]
        return [texts[start : start + repeats] for start in range(0, len(texts), repeats)]

    def serve(self, source: RequestSource, parameters: SamplingParameters) -> None:
        """Answer the requests of a source; see :class:`lightning_modules.generation.engine.GenerationEngine`.

        Raises:
            NotImplementedError: If the weights are sharded.
        """
        if self.needs_all_ranks:
            raise NotImplementedError("serve with sharded weights")
        serve_in_batches(self, source, parameters, self.max_samples_at_once)

    def _encode(self, requests: Sequence[GenerationRequest]) -> dict[str, Tensor]:
        inputs = model_inputs(
            self.processor,
            [render_prompt(self.processor, r.messages) + r.partial_response for r in requests],
            [r.images for r in requests],
            [r.max_tiles for r in requests],
            padding_side="left",
        )
        return dict(BatchFeature(inputs).to(computing_device(self.model), self.model.dtype))

    def _read(self, inputs: dict[str, Any]) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        """Prefill: last hidden states (B, H), the filled cache, position ids, and the next position (B,)."""
        positions, next_position = prompt_positions(self.model, inputs)
        output = self.model.base_model(**inputs, position_ids=positions, cache=DynamicCache(), use_cache=True)
        return output.last_hidden_state[:, -1], output.cache, positions, next_position

    def _decode(
        self,
        logits: Tensor,
        cache: DynamicCache,
        attention_mask: Tensor,
        next_position: Tensor,
        position_dimensions: Sequence[int],
        uniform: Tensor,
        parameters: SamplingParameters,
    ) -> Tensor:
        """Decode all rows to their end; returns (rows, max_new_tokens) ids, padded after the end token."""
        rows, limit = uniform.shape
        tokens = torch.full((rows, limit), self.pad_id, device=logits.device)
        end_ids, banned_ids = self.end_ids.to(logits.device), self.banned_ids.to(logits.device)
        alive = torch.arange(rows, device=logits.device)
        finished = torch.zeros(rows, dtype=torch.bool, device=logits.device)
        for step in range(limit):
            logits = logits.index_fill(-1, banned_ids, float("-inf"))
            chosen = pick_tokens(
                logits, uniform[alive, step], parameters.temperature, parameters.top_p, parameters.top_k
            )
            tokens[alive, step] = chosen
            finished = finished | torch.isin(chosen, end_ids)
            keep = (~finished).nonzero().squeeze(-1)
            left = most_on_any_rank(len(keep), logits.device) if self.needs_all_ranks else len(keep)
            if left == 0 or step + 1 == limit:
                break
            if len(keep) == 0:
                keep = keep.new_zeros(1)  # what follows the end of a text is cut off
            # Copying the cache to drop finished rows pays once a quarter of them is done.
            if len(keep) <= 0.75 * len(chosen):
                cache.batch_select_indices(keep)
                alive, chosen, finished = alive[keep], chosen[keep], finished[keep]
                attention_mask, next_position = attention_mask[keep], next_position[keep]
            attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(alive), 1)], -1)
            output = self.model.base_model(
                input_ids=chosen[:, None],
                attention_mask=attention_mask,
                position_ids=next_position[:, None].expand(*position_dimensions, -1, -1),
                cache=cache,
                use_cache=True,
            )
            next_position = next_position + 1
            logits = vocabulary_logits(self.model, output.last_hidden_state[:, -1])
        return tokens

    def _to_text(self, tokens: Tensor, prompt_tokens: Sequence[int]) -> list[GeneratedText]:
        """Cut every row at its first end token and decode it."""
        is_end = torch.isin(tokens, self.end_ids.to(tokens.device))
        ended = is_end.any(-1).tolist()
        lengths = torch.where(is_end.any(-1), is_end.int().argmax(-1), tokens.shape[-1]).tolist()
        cut = [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)]
        texts = self.processor.tokenizer.batch_decode(cut, skip_special_tokens=True)
        return [
            GeneratedText(text, "stop" if has_ended else "length", prompt, length + has_ended)
            for text, has_ended, prompt, length in zip(texts, ended, prompt_tokens, lengths, strict=True)
        ]


def engine_settings(engine: GenerationEngine) -> dict[str, Any]:
    """What predictions depend on because of their engine: its class, unless it is the default one, and its settings."""
    kind = type(engine)
    # Predictions that were begun before engines could be chosen hold no such keys.
    if kind is TransformersEngine:
        return {}
    own = {"engine_settings": engine.prediction_settings} if isinstance(engine, PredictionSettings) else {}
    return {"engine": f"{kind.__module__}.{kind.__qualname__}", **own}
