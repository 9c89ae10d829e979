"""Scores of steps computed the plainest way: conversations written out by hand, one whole forward each, no cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

IMAGE_TOKENS = "<img>" + 4 * "<IMG_CONTEXT>" + "</img>"
VERDICT = "<|assistant|>+<|end|>"

Tokenize = Callable[[str], list[int]]
Logits = Callable[[list[int]], Tensor]


@dataclass(frozen=True)
class ChatLayout:
    """How a model's chat template writes a conversation.

    ``system`` and ``user`` hold ``{}`` for the text; ``begin`` stands in front of all. Images of a question without
    placeholders stand before the first text of the user, or behind the header of the question.
    """

    begin: str
    system: str
    user: str
    verdict: str
    images_first: bool

    @property
    def header(self) -> str:
        """What begins an assistant turn; the logits of its last token predict the verdict."""
        return self.verdict.partition("+")[0]


TINY = ChatLayout("", "<|system|>{}<|end|>", "<|user|>{}<|end|>", VERDICT, images_first=True)
RELEASED = ChatLayout(
    "<s>",
    "<|im_start|>system\n{}<|im_end|>\n",
    "<|im_start|>user\n{}<|im_end|>\n",
    "<|im_start|>assistant\n+<|im_end|>\n",
    images_first=False,
)
"""Of VisualPRM-8B: template internvl2_5 and InternLM2's beginning-of-sequence token."""


def write_turns(
    question: str,
    images: int | Sequence[str],
    steps: Sequence[str],
    system_prompt: str,
    layout: ChatLayout = TINY,
) -> list[str]:
    """The turns of a conversation, image tokens expanded; ``images`` are their number or the tokens of each."""
    tokens = [IMAGE_TOKENS] * images if isinstance(images, int) else list(images)
    leading = ""
    if tokens and "<image>" not in question:
        if layout.images_first:
            leading = "<image>" * len(tokens)
        elif len(tokens) == 1:
            question = "<image>\n" + question
        else:
            question = "".join(f"Image-{n + 1}: <image>\n" for n in range(len(tokens))) + question
    first = f"{leading}### Question:\n{question}\n\n### Solution Process:\n"
    for expanded in tokens:
        first = first.replace("<image>", expanded, 1)
    turns = [layout.begin] if layout.begin else []
    turns += [layout.system.replace("{}", system_prompt)] if system_prompt else []
    turns += [layout.user.replace("{}", first + steps[0]), layout.verdict]
    for step in steps[1:]:
        turns += [layout.user.replace("{}", step), layout.verdict]
    return turns


def tokenize_turns(
    processor: ProcessorMixin | Tokenize, turns: Sequence[str], layout: ChatLayout = TINY
) -> tuple[list[int], list[int]]:
    """Token ids turn by turn, and the positions whose logits predict the verdicts."""
    tokenize = _tokenizer_of(processor) if isinstance(processor, ProcessorMixin) else processor
    ids: list[int] = []
    positions = []
    for turn in turns:
        if turn == layout.verdict:
            positions.append(len(ids) + len(tokenize(layout.header)) - 1)
        ids += tokenize(turn)
    return ids, positions


def _tokenizer_of(processor: ProcessorMixin) -> Tokenize:
    return lambda text: processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def vocabulary_logits(
    backbone: PreTrainedModel, processor: ProcessorMixin, images: Sequence[Image.Image], ids: list[int]
) -> Tensor:
    """Logits (L, V) of one conversation, alone and without padding."""
    pixels = {}
    if images:
        pixels["pixel_values"] = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return backbone(input_ids=torch.tensor([ids]), use_cache=False, **pixels).logits[0]


def plus_probabilities(processor: ProcessorMixin | Tokenize, logits: Tensor) -> Tensor:
    """P(+) between + and -: (..., V) -> (...)."""
    tokenize = _tokenizer_of(processor) if isinstance(processor, ProcessorMixin) else processor
    plus, minus = (logits[..., tokenize(token)[-1]].double() for token in "+-")
    return plus.exp() / (plus.exp() + minus.exp())


def response_at_once(turns: Sequence[str], layout: ChatLayout, tokenize: Tokenize, logits: Logits) -> list[float]:
    """Step scores with one forward over the whole conversation (the released "soft_v2")."""
    ids, positions = tokenize_turns(tokenize, turns, layout)
    return plus_probabilities(tokenize, logits(ids)[positions]).tolist()


def step_by_step(turns: Sequence[str], layout: ChatLayout, tokenize: Tokenize, logits: Logits) -> list[float]:
    """The same with one forward a step over the text that ends where the step is to be judged (the released "soft")."""
    ends = [index for index, turn in enumerate(turns) if turn == layout.verdict]
    texts = ["".join(turns[:end]) + layout.header for end in ends]
    return [plus_probabilities(tokenize, logits(tokenize(text))[-1]).item() for text in texts]


def score_literally(
    backbone: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    question: str,
    steps: Sequence[str],
    system_prompt: str,
) -> list[float]:
    """Step scores of one response of the tiny checkpoint with one forward over its whole conversation."""
    turns = write_turns(question, len(images), steps, system_prompt)
    return response_at_once(
        turns, TINY, _tokenizer_of(processor), lambda ids: vocabulary_logits(backbone, processor, images, ids)
    )


def score_step_by_step(
    backbone: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    question: str,
    steps: Sequence[str],
    system_prompt: str,
) -> list[float]:
    """The same with one forward a step over the conversation that ends where the step is to be judged."""
    turns = write_turns(question, len(images), steps, system_prompt)
    return step_by_step(
        turns, TINY, _tokenizer_of(processor), lambda ids: vocabulary_logits(backbone, processor, images, ids)
    )
