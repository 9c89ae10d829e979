"""A second engine: the model's own `generate`, one request at a time, as a user would write one."""

import hashlib
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, ProcessorMixin

from lightning_modules.generation.batches import serve_in_batches
from lightning_modules.generation.engine import GeneratedText, GenerationRequest, RequestSource
from lightning_modules.generation.sampling import SamplingParameters


class GenerateEngine:
    """Samples among the most likely tokens with `generate`.

    Args:
        top_k: Number of these tokens.
    """

    needs_all_ranks = False

    def __init__(self, top_k: int = 50) -> None:
        self.top_k = top_k

    def attach(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Take the model."""
        self.model, self.processor = model, processor

    def sample(
        self, requests: Sequence[GenerationRequest], parameters: SamplingParameters
    ) -> list[list[GeneratedText]]:
        """Answer every prompt."""
        return [[self._one(request, key, parameters) for key in request.sample_keys] for request in requests]

    def serve(self, source: RequestSource, parameters: SamplingParameters) -> None:
        """Answer the requests of a source."""
        serve_in_batches(self, source, parameters, 8)

    def _one(self, request: GenerationRequest, key: str, parameters: SamplingParameters) -> GeneratedText:
        chat = self.processor.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=False)
        images = [list(request.images)] if request.images else None
        inputs = self.processor(text=[chat + request.partial_response], images=images, return_tensors="pt")
        tokenizer, length = self.processor.tokenizer, inputs["input_ids"].shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(hash_of(parameters.seed, key))
            (ids,) = self.model.generate(
                **inputs,
                do_sample=parameters.temperature > 0,
                temperature=parameters.temperature or None,
                top_k=self.top_k,
                max_new_tokens=parameters.max_new_tokens,
                suppress_tokens=[self.model.config.image_token_id, tokenizer.pad_token_id],
                pad_token_id=tokenizer.pad_token_id,
            )[:, length:]
        end = self.model.generation_config.eos_token_id
        ended = ids[-1].item() in (end if isinstance(end, list) else [end])
        text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        return GeneratedText(text, "stop" if ended else "length", length, len(ids))


def hash_of(seed: int, key: str) -> int:
    """A number that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=7).digest(), "little")
