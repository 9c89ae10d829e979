"""Texts and pictures to the inputs of a model, with a bound on the tiles that pictures are cut into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import ProcessorMixin

from datamodules.conversation.refused_pictures import PictureRefusedError, naming_pictures


def model_inputs(
    processor: ProcessorMixin,
    texts: Sequence[str],
    images: Sequence[Sequence[Image.Image]],
    max_tiles: Sequence[int | None],
    padding_side: Literal["left", "right"],
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Tokenise rendered conversations and preprocess their pictures, if possible with one call of the processor.

    Args:
        processor: Of the model.
        texts: B conversations, image placeholders not yet expanded.
        images: RGB pictures of each.
        max_tiles: For each, see :func:`tiling`.
        padding_side: Where shorter conversations are padded.
        names: Of the conversations, for errors; their numbers by default.

    Returns:
        Inputs of the model, with ``input_ids`` and ``attention_mask`` of shape (B, L).

    Raises:
        PictureRefusedError: If the processor refuses a picture; names the conversation.
        ValueError: See :func:`tiling`.
    """
    names = [f"conversation {number}" for number in range(len(texts))] if names is None else names
    # Pictures cut in different ways need calls of their own; text-only conversations go with any of them.
    cuts = {most for most, pictures in zip(max_tiles, images, strict=True) if pictures}
    if len(cuts) <= 1:
        return _processed(processor, texts, images, next(iter(cuts), None), padding_side, names)
    parts = []
    for index, (text, pictures, most, name) in enumerate(zip(texts, images, max_tiles, names, strict=True)):
        try:
            parts.append(_processed(processor, [text], [pictures], most if pictures else None, padding_side, [name]))
        except PictureRefusedError as error:
            raise error.at(error.place, index) from error
    return _joined(processor, parts, padding_side)


def tiling(processor: ProcessorMixin, max_tiles: int | None) -> dict[str, int | bool]:
    """Arguments for a processor that bound the number of tiles of a picture, the thumbnail not counted.

    Args:
        processor: Of the model.
        max_tiles: Most tiles; the processor's own number by default.

    Raises:
        ValueError: If the processor does not cut pictures into tiles.
    """
    if max_tiles is None:
        return {}
    images = getattr(processor, "image_processor", None)
    options = getattr(getattr(images, "valid_kwargs", None), "__annotations__", {})
    if images is None or not {"crop_to_patches", "min_patches", "max_patches"} <= set(options):
        raise ValueError(
            f"max_tiles={max_tiles}: the image processor {type(images).__name__} does not cut pictures into tiles; "
            f"leave max_tiles out"
        )
    return {
        "crop_to_patches": max_tiles > 1,
        "min_patches": min(images.min_patches, max_tiles),
        "max_patches": max_tiles,
    }


def _processed(
    processor: ProcessorMixin,
    texts: Sequence[str],
    images: Sequence[Sequence[Image.Image]],
    max_tiles: int | None,
    padding_side: str,
    names: Sequence[str],
) -> dict[str, Tensor]:
    has_images = any(images)
    options = tiling(processor, max_tiles) if has_images else {}
    with naming_pictures(processor, list(zip(names, images, strict=True)), options):
        return dict(
            processor(
                text=list(texts),
                images=[list(pictures) for pictures in images] if has_images else None,
                padding=True,
                padding_side=padding_side,
                add_special_tokens=False,
                return_tensors="pt",
                **options,
            )
        )


def _joined(processor: ProcessorMixin, parts: Sequence[dict[str, Tensor]], padding_side: str) -> dict[str, Tensor]:
    """Outputs of the processor for one conversation each, as one batch."""
    joined: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        if all(part[name].shape == part["input_ids"].shape for part in parts if name in part):
            padding = processor.tokenizer.pad_token_id if name == "input_ids" else 0
            # A text-only conversation has no mm_token_type_ids, which are 0 for text.
            rows = [part.get(name, torch.zeros_like(part["input_ids"]))[0] for part in parts]
            joined[name] = pad_sequence(rows, batch_first=True, padding_value=padding, padding_side=padding_side)
        else:
            joined[name] = torch.cat([part[name] for part in parts if name in part])
    return joined
