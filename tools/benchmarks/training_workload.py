"""Conversations with the lengths of VisualPRM400K, for a model in the proportions of VisualPRM-8B."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GotOcr2ImageProcessor

from datamodules.batching.collate import StepBatch
from tools.benchmarks.indexing import STEPS, WORDS_PER_STEP
from tools.benchmarks.models import FIRST_TEXT_ID, IMAGE_ID, PAD_ID, Size

_TOKENS_PER_WORD = 1.35
_TOKENS_OF_TURNS, _TOKENS_OF_PROMPT, _TOKENS_OF_QUESTION = 8, 125, 60
_MOST_STEPS, _MOST_TILES = 12, 12

SIZES = {
    "tiny": Size(hidden=256, layers=1, vision_width=64, vision_layers=1, tile=56, vocabulary=256),
    "small": Size(hidden=512, layers=6, vision_width=128, vision_layers=5, tile=168, vocabulary=2120),
    "medium": Size(hidden=1024, layers=8, vision_width=256, vision_layers=6, tile=224, vocabulary=5760),
    "large": Size(hidden=2048, layers=16, vision_width=512, vision_layers=12, tile=448, vocabulary=23040),
    # InternVL2.5-8B itself: InternViT-300M and InternLM2.5-7B, which is a Llama with other names.
    "8b": Size(hidden=4096, layers=32, vision_width=1024, vision_layers=24, tile=448, vocabulary=92553, head_size=128),
}


@dataclass(frozen=True)
class Row:
    """A conversation.

    Attributes:
        tiles: Tiles of its picture, the thumbnail included; 0 without a picture.
        ids: (n,) token ids.
        steps: (s,) step positions.
        labels: (s,) 0 or 1.
    """

    tiles: int
    ids: Tensor
    steps: Tensor
    labels: Tensor


def make_rows(size: Size, number: int, seed: int = 0) -> list[Row]:
    """Rows with 1 to 12 steps, on average 5.6 of 22.6 words (paper, section 3.2), a tenth of them wrong.

    Pictures are cut as InternVL's processor cuts them into at most 12 tiles and a thumbnail. Their sizes are an
    assumption, since the paper does not state them: a median width of 500 pixels, log-normal with a spread of 0.6, and
    aspect ratios around 1.3 with a spread of 0.35; one row of twenty has none. Texts are shorter in the ratio of a
    tile's tokens to the 8B's.
    """
    random = np.random.default_rng(seed)
    processor = GotOcr2ImageProcessor(
        size={"height": 448, "width": 448}, crop_to_patches=True, min_patches=1, max_patches=_MOST_TILES
    )

    def shorter(tokens: float) -> int:
        return max(1, round(tokens * size.share))

    rows = []
    for _ in range(number):
        tiles = 0
        if random.random() >= 0.05:
            width = min(4000.0, 500 * np.exp(0.6 * random.standard_normal()))
            height = width / (1.3 * np.exp(0.35 * random.standard_normal()))
            tiles = processor.get_number_of_image_patches(max(16, int(height)), max(16, int(width)), {})
        count = min(_MOST_STEPS, 1 + int(random.poisson(STEPS - 1)))
        words = 1 + random.poisson(WORDS_PER_STEP - 1, count)
        lengths = [shorter(_TOKENS_PER_WORD * w + _TOKENS_OF_TURNS) for w in words.tolist()]
        question = shorter(_TOKENS_OF_PROMPT + _TOKENS_OF_QUESTION * np.exp(0.5 * random.standard_normal()))
        ids = random.integers(FIRST_TEXT_ID, size.vocabulary, question + tiles * size.tile_tokens + sum(lengths) + 1)
        ids[question : question + tiles * size.tile_tokens] = IMAGE_ID
        steps = question + tiles * size.tile_tokens + np.cumsum(lengths) - 1
        labels = (random.random(count) < 0.1).astype(np.int64)
        rows.append(Row(tiles, torch.from_numpy(ids), torch.from_numpy(steps), torch.from_numpy(labels)))
    return rows


def padded_batch(size: Size, rows: Sequence[Row], device: str, dtype: torch.dtype, seed: int = 0) -> StepBatch:
    """Rows as a batch, with random pictures; ``mc`` is 1 for label 0, and 0 for label 1."""
    ids = pad_sequence([row.ids for row in rows], batch_first=True, padding_value=PAD_ID)
    lengths = torch.tensor([len(row.ids) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}
    if tiles := sum(row.tiles for row in rows):
        pixels = [
            torch.randn(row.tiles, 3, size.tile, size.tile, generator=torch.Generator().manual_seed(int(row.ids[0])))
            for row in rows
            if row.tiles
        ]
        inputs["pixel_values"] = torch.cat(pixels).to(dtype)
        assert len(inputs["pixel_values"]) == tiles
    positions = pad_sequence([row.steps for row in rows], batch_first=True, padding_value=-1)
    mc = pad_sequence([1.0 - row.labels for row in rows], batch_first=True, padding_value=float("nan"))
    unknown = torch.full_like(positions, -1)
    names = [str(number) for number in range(len(rows))]
    return StepBatch(
        {name: value.to(device) for name, value in inputs.items()}, positions.to(device), mc.to(device),
        unknown, unknown, names, names,
    )  # fmt: skip
