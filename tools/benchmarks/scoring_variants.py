"""Candidates for a model in the proportions of VisualPRM-8B, and three ways to score them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from datamodules.conversation.candidates import EncodedCandidates
from lightning_modules.model.step_head import StepHead
from lightning_modules.scoring.candidates import score_candidates
from tools.benchmarks.models import CLASS_IDS, FIRST_TEXT_ID, IMAGE_ID, PAD_ID, Size
from tools.benchmarks.operations import Workload

SIZES = {
    "tiny": Size(hidden=256, layers=2, vision_width=64, vision_layers=2, tile=56, vocabulary=256),
    "small": Size(hidden=512, layers=8, vision_width=128, vision_layers=5, tile=224, vocabulary=2880),
    "medium": Size(hidden=1024, layers=8, vision_width=256, vision_layers=6, tile=224, vocabulary=5760),
    "wide": Size(hidden=2048, layers=2, vision_width=512, vision_layers=1, tile=308, vocabulary=2880),
    "large": Size(hidden=2048, layers=16, vision_width=512, vision_layers=12, tile=448, vocabulary=23040),
    "8b": Size(hidden=4096, layers=32, vision_width=1024, vision_layers=24, tile=448, vocabulary=92553),
}


def make_candidates(model: PreTrainedModel, work: Workload) -> EncodedCandidates:
    """Random tokens of the workload's sizes, and a picture of noise."""
    generator = torch.Generator().manual_seed(1)
    text = partial(torch.randint, FIRST_TEXT_ID, model.config.get_text_config().vocab_size, generator=generator)
    prefix = torch.cat([torch.full((work.tiles * model.config.image_seq_length,), IMAGE_ID), text((work.text_tokens,))])
    height, width = model.config.vision_config.image_size
    pixels = torch.rand(work.tiles, 3, height, width, generator=generator) * 2 - 1
    inputs = {"input_ids": prefix[None], "attention_mask": torch.ones_like(prefix)[None], "pixel_values": pixels}
    suffixes = [text((ends[-1],)) for ends in work.step_ends]
    return EncodedCandidates(inputs, suffixes, [torch.tensor(ends) - 1 for ends in work.step_ends])


def _class_logits(model: PreTrainedModel, group: EncodedCandidates, suffix: Tensor) -> Tensor:
    """Class logits of a whole conversation, from the vocabulary logits of a plain forward."""
    ids = torch.cat([group.prefix["input_ids"][0], suffix])[None].to(model.device)
    pixels = group.prefix["pixel_values"].to(model.device, model.dtype)
    logits = model(input_ids=ids, pixel_values=pixels, use_cache=False).logits
    return logits[0, group.prefix["input_ids"].shape[1] :, list(CLASS_IDS)].float().cpu()


def soft(model: PreTrainedModel, group: EncodedCandidates) -> list[Tensor]:
    """One forward per step."""
    pairs = zip(group.suffixes, group.step_positions, strict=True)
    return [
        torch.stack([_class_logits(model, group, suffix[: end + 1])[-1] for end in positions.tolist()])
        for suffix, positions in pairs
    ]


def soft_v2(model: PreTrainedModel, group: EncodedCandidates) -> list[Tensor]:
    """One forward per response."""
    pairs = zip(group.suffixes, group.step_positions, strict=True)
    return [_class_logits(model, group, suffix)[positions] for suffix, positions in pairs]


def ours(model: PreTrainedModel, group: EncodedCandidates, memory_gib: float | None = None) -> list[Tensor]:
    """The shared prefix."""
    return score_candidates(model, StepHead(model, CLASS_IDS), [group], PAD_ID, memory_gib)[0]


Variant = Callable[[PreTrainedModel, EncodedCandidates], list[Tensor]]


def variants(memory_gib: float | None) -> dict[str, Variant]:
    """All of them by name."""
    return {"soft": soft, "soft_v2": soft_v2, "ours": partial(ours, memory_gib=memory_gib)}
