"""Prefixes of solutions to continue, by a policy on disk or by one with random weights in the proportions of the 8B."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    GotOcr2ImageProcessor,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from datamodules.conversation.messages import question_content
from datamodules.conversation.steps import DEFAULT_MAX_STEPS, STEP_SEPARATOR, response_steps
from datamodules.policy.prompt_rows import read_prompts
from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.transformers_engine import TransformersEngine
from tools.benchmarks.models import Size
from tools.benchmarks.operations import usual_workload
from tools.make_tiny_model import CHAT_TEMPLATE, SPECIAL_TOKENS, train_tokenizer


@dataclass(frozen=True)
class Work:
    """Prefixes of solutions, each of which is continued K times.

    Attributes:
        requests: One for each prefix.
        parameters: Of those that have none of their own.
    """

    requests: Sequence[GenerationRequest]
    parameters: SamplingParameters

    @property
    def continuations(self) -> int:
        """Number of texts to sample."""
        return sum(len(request.sample_keys) for request in self.requests)

    def every(self, count: int | None) -> Work:
        """So many of the prefixes, spread over all of them; all if None."""
        if count is None or count >= len(self.requests):
            return self
        chosen = np.linspace(0, len(self.requests), 2 * count + 1)[1::2].astype(int)
        return replace(self, requests=[self.requests[number] for number in chosen])


def sampled_work(
    model: PreTrainedModel, processor: ProcessorMixin, prompts: Path, questions: int, solutions: int, samples: int
) -> Work:
    """Prefixes of solutions that the policy itself writes; a solution that two have in common counts once."""
    parameters = SamplingParameters(temperature=1.0, max_new_tokens=256)
    asked = []
    for prompt in read_prompts(prompts, instruction="")[:questions]:
        images = prompt.load_images()
        messages = [{"role": "user", "content": question_content(prompt.policy_text, len(images))}]
        keys = [f"{prompt.prompt_id}/{number}" for number in range(solutions)]
        asked.append(GenerationRequest(messages, images, keys))
    found = TransformersEngine.of(model, processor).sample(asked, parameters)
    requests = []
    for question, texts in zip(asked, found, strict=True):
        steps_of = [response_steps(text.text, DEFAULT_MAX_STEPS) for text in texts]
        beginnings = dict.fromkeys(
            STEP_SEPARATOR.join(steps[:count]) + STEP_SEPARATOR for steps in steps_of for count in range(1, len(steps))
        )
        requests += [_continued(question, beginning, samples) for beginning in beginnings]
    return Work(requests, parameters)


def _continued(question: GenerationRequest, beginning: str, samples: int) -> GenerationRequest:
    keys = [f"{question.sample_keys[0]}/{beginning}/{number}" for number in range(samples)]
    return replace(question, sample_keys=keys, partial_response=beginning)


def random_work(size: Size, questions: int, solutions: int, samples: int) -> Work:
    """Solutions of random words with the usual numbers of steps, in the ratio of a tile's tokens to the 8B's.

    Each continuation is as long as what is left of its solution, as the model would never end a text by itself.
    """
    generator = np.random.default_rng(0)
    usual = usual_workload(4, solutions)
    parameters = SamplingParameters(temperature=1.0, max_new_tokens=256)
    tokens = max(2, round(usual.step_ends[0][0] * size.share))
    requests = []
    for number in range(questions):
        pixels = generator.integers(0, 256, (size.tile, 3 * size.tile, 3), dtype=np.uint8)
        text = " ".join(generator.choice(WORDS, round(usual.text_tokens * size.share)))
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        question = GenerationRequest(messages, [Image.fromarray(pixels)], [f"question-{number}"])
        for solution, ends in enumerate(usual.step_ends):
            steps = [" ".join(generator.choice(WORDS, tokens - 1)) for _ in ends]
            for count in range(1, len(steps)):
                beginning = STEP_SEPARATOR.join(steps[:count]) + STEP_SEPARATOR
                request = _continued(question, beginning, samples)
                keys = [f"{solution}/{key}" for key in request.sample_keys]
                own = replace(parameters, max_new_tokens=tokens * (len(steps) - count))
                requests.append(replace(request, sample_keys=keys, parameters=own))
    return Work(requests, parameters)


_SYLLABLES = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
WORDS = [f"{first}{second}" for first, second in itertools.product(_SYLLABLES[:40], _SYLLABLES)]


def write_random_policy(folder: Path, size: Size) -> None:
    """Write a policy with random weights that cuts a picture of three tiles into four, the whole one included."""
    tokenizer = train_tokenizer(iter([" ".join(["", *WORDS])] * 2), size.vocabulary)
    tokenizer.add_tokens([f"[{number}]" for number in range(size.vocabulary - len(tokenizer))])
    side = {"height": size.tile, "width": size.tile}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=side, crop_to_patches=True, min_patches=1, max_patches=3),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=side),
        image_seq_length=size.tile_tokens,
        chat_template=CHAT_TEMPLATE,
    )
    config = size.config()
    config.image_token_id = tokenizer.vocab[SPECIAL_TOKENS["context_image_token"]]
    text_config = config.get_text_config(decoder=True)
    text_config.pad_token_id = tokenizer.pad_token_id
    text_config.eos_token_id = tokenizer.eos_token_id
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


class TokenCount:
    """Counts the tokens that a language model reads: of prompts (several at once), and of texts (one by one)."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.of_prompts = self.of_texts = 0
        model.get_decoder().register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        embeddings = kwargs.get("inputs_embeds")
        shape = (kwargs["input_ids"] if embeddings is None else embeddings).shape
        if shape[1] > 1:
            self.of_prompts += shape[0] * shape[1]
        else:
            self.of_texts += shape[0]

    def during(self, run: Callable[[], object]) -> tuple[int, int]:
        """Tokens of prompts and of texts that are read while something runs."""
        self.of_prompts = self.of_texts = 0
        run()
        return self.of_prompts, self.of_texts
