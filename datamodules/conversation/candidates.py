"""Tokenise the N candidate solutions of one question, split into a shared prefix and N suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from datamodules.conversation.encoder import Conversation, ConversationEncoder
from datamodules.conversation.refused_pictures import naming_pictures
from datamodules.conversation.tiles import tiling


@dataclass
class EncodedCandidates:
    """N conversations about one question.

    Attributes:
        prefix: Processor output of the shared prefix: input_ids of shape (1, P), and the image inputs.
        suffixes: N tensors of token ids, each (L_n,): the tokens after the prefix.
        step_positions: N tensors, each (S_n,): positions in the suffix whose logits predict the class tokens.
        conversations: The N conversations, for a model behind a server; see
            :attr:`ConversationEncoder.encodes_pictures`. The prefix has no image inputs then. Else None.
        targets: N tensors (S_n, K) of token ids whose log-probabilities are asked for at each position, instead of
            those of class tokens; None for a step head.
    """

    prefix: dict[str, Tensor]
    suffixes: list[Tensor]
    step_positions: list[Tensor]
    conversations: list[Conversation] | None = None
    targets: list[Tensor] | None = None


def common_prefix_length(rows: Sequence[Sequence[int]], limit: int) -> int:
    """Length of the longest common prefix of all rows, at most ``limit``."""
    first, length = rows[0], limit
    for row in rows[1:]:
        length = min(length, len(row))
        for index in range(length):
            if row[index] != first[index]:
                length = index
                break
    return length


def encode_candidates(
    encoder: ConversationEncoder,
    images: Sequence[Image.Image],
    question: str | Sequence[str],
    candidates: Sequence[Sequence[str]],
    sample_id: str,
    max_tiles: int | None = None,
) -> EncodedCandidates:
    """Tokenise the candidates and preprocess the images once.

    The shared prefix is the longest common token prefix of the *full* tokenisations, so the result does not depend on
    how the prefix alone would be tokenised. It ends before the first step position.

    Args:
        encoder: Renders and tokenises conversations.
        images: Pictures of the question.
        question: Text of the question, or the text above each candidate.
        candidates: N lists of steps.
        sample_id: Name of the sample, for error messages.
        max_tiles: Most tiles that each picture is cut into; the processor's own number by default.

    Raises:
        ValueError: If the processor refuses a picture, there is no candidate, a candidate has no steps, or an image
            token is outside the prefix.
    """
    if not candidates or any(not steps for steps in candidates):
        raise ValueError(f"{sample_id}: every question needs a candidate and every candidate a step")
    questions = [question] * len(candidates) if isinstance(question, str) else question
    texts = [
        encoder.render(text, len(images), steps, sample_id) for text, steps in zip(questions, candidates, strict=True)
    ]
    tokenizer = encoder.processor.tokenizer
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    positions = [
        encoder.find_step_positions(row, len(steps), f"{sample_id}, candidate {number}")
        for number, (row, steps) in enumerate(zip(rows, candidates, strict=True))
    ]
    length = common_prefix_length(rows, min(found[0] for found in positions))
    if encoder.encodes_pictures:
        prefix = prefix_with_pictures(encoder.processor, images, texts[0], rows[0], length, sample_id, max_tiles)
    else:
        ids = torch.tensor([rows[0][:length]])
        prefix = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    conversations = [
        Conversation(images, text, steps, f"{sample_id}, candidate {number}", max_tiles)
        for number, (text, steps) in enumerate(zip(questions, candidates, strict=True))
    ]
    return EncodedCandidates(
        prefix,
        [torch.tensor(row[length:]) for row in rows],
        [torch.tensor(found) - length for found in positions],
        encoder.kept(conversations),
    )


def prefix_with_pictures(
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    text: str,
    row: Sequence[int],
    length: int,
    sample_id: str,
    max_tiles: int | None = None,
) -> dict[str, Tensor]:
    """Processor output of the first ``length`` tokens of a rendered conversation.

    Args:
        processor: Of the model.
        images: Its pictures.
        text: The whole conversation, image placeholders not yet expanded.
        row: Token ids of that text.
        length: How many of them belong to the prefix.
        sample_id: Named in errors.
        max_tiles: Most tiles that each picture is cut into; the processor's own number by default.

    Raises:
        PictureRefusedError: If the processor refuses a picture.
        ValueError: If an image placeholder lies behind the prefix.
    """
    options = tiling(processor, max_tiles) if images else {}
    with naming_pictures(processor, [(sample_id, images)], options):
        first = processor(
            text=[text],
            images=[list(images)] if images else None,
            add_special_tokens=False,
            return_tensors="pt",
            **options,
        )
    prefix: dict[str, Tensor] = dict(first)
    expanded = prefix["input_ids"]
    prefix_length = expanded.shape[1] - (len(row) - length)
    if expanded[0, prefix_length:].tolist() != list(row[length:]):
        raise ValueError(f"{sample_id}: an image placeholder lies behind the part that all candidates share")
    return {
        name: value[:, :prefix_length] if value.shape == expanded.shape else value for name, value in prefix.items()
    }
