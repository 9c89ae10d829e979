"""Scores of steps computed the plainest way: conversations written out by hand, one whole forward each, no cache."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

IMAGE_TOKENS = "<img>" + 4 * "<IMG_CONTEXT>" + "</img>"
VERDICT = "<|assistant|>+<|end|>"


def write_turns(question: str, num_images: int, steps: Sequence[str], system_prompt: str) -> list[str]:
    """The turns of a conversation as the tiny checkpoint's template writes them, image tokens expanded."""
    if "<image>" in question:
        question = "### Question:\n" + question.replace("<image>", IMAGE_TOKENS)
    else:
        question = num_images * IMAGE_TOKENS + "### Question:\n" + question
    turns = [f"<|system|>{system_prompt}<|end|>"] if system_prompt else []
    turns += [f"<|user|>{question}\n\n### Solution Process:\n{steps[0]}<|end|>", VERDICT]
    for step in steps[1:]:
        turns += [f"<|user|>{step}<|end|>", VERDICT]
    return turns


def tokenize_turns(processor: ProcessorMixin, turns: Sequence[str]) -> tuple[list[int], list[int]]:
    """Token ids turn by turn, and where the role tokens of the verdicts are, whose logits predict the verdicts."""
    ids: list[int] = []
    positions = []
    for turn in turns:
        if turn == VERDICT:
            positions.append(len(ids))
        ids += processor.tokenizer(turn, add_special_tokens=False)["input_ids"]
    return ids, positions


def vocabulary_logits(
    backbone: PreTrainedModel, processor: ProcessorMixin, images: Sequence[Image.Image], ids: list[int]
) -> Tensor:
    """Logits (L, V) of one conversation, alone and without padding."""
    pixels = {}
    if images:
        pixels["pixel_values"] = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return backbone(input_ids=torch.tensor([ids]), use_cache=False, **pixels).logits[0]


def plus_probabilities(processor: ProcessorMixin, logits: Tensor) -> Tensor:
    """P(+) between + and -: (..., V) -> (...)."""
    plus, minus = (logits[..., processor.tokenizer.vocab[token]].double() for token in "+-")
    return plus.exp() / (plus.exp() + minus.exp())


def score_literally(
    backbone: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    question: str,
    steps: Sequence[str],
    system_prompt: str,
) -> list[float]:
    """Step scores of one response with one forward over its whole conversation."""
    ids, positions = tokenize_turns(processor, write_turns(question, len(images), steps, system_prompt))
    logits = vocabulary_logits(backbone, processor, images, ids)
    return plus_probabilities(processor, logits[positions]).tolist()


def score_step_by_step(
    backbone: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    question: str,
    steps: Sequence[str],
    system_prompt: str,
) -> list[float]:
    """The same with one forward a step over the conversation that ends where the step is to be judged."""
    scores = []
    for count in range(1, len(steps) + 1):
        turns = write_turns(question, len(images), steps[:count], system_prompt)
        ids, _ = tokenize_turns(processor, [*turns[:-1], "<|assistant|>"])
        logits = vocabulary_logits(backbone, processor, images, ids)
        scores.append(plus_probabilities(processor, logits[-1]).item())
    return scores
