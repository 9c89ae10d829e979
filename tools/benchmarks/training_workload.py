"""Conversations with the lengths of VisualPRM400K, and a model in the proportions of VisualPRM-8B to train on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GotOcr2ImageProcessor, InternVLConfig, InternVLForConditionalGeneration, PreTrainedModel

from datamodules.process.collate import StepBatch
from tools.benchmarks.indexing import STEPS, WORDS_PER_STEP

CLASS_IDS = (10, 11)
FIRST_TEXT_ID, IMAGE_ID, PAD_ID = 20, 1, 0
TILE_TOKENS_8B, PACKED_TOKENS_8B = 256, 8192
_TOKENS_PER_WORD = 1.35
_TOKENS_OF_TURNS, _TOKENS_OF_PROMPT, _TOKENS_OF_QUESTION = 8, 125, 60
_MOST_STEPS, _MOST_TILES = 12, 12


@dataclass(frozen=True)
class Size:
    """A model in the 8B's proportions: width to tokens of a tile, vision tower and vocabulary head to language model.

    Attributes:
        hidden: Of the language model; its MLP is 3.5 times as wide, four query heads share a key head.
        layers: Of the language model.
        vision_width: Of the vision tower.
        vision_layers: Of the vision tower.
        tile: Side of a tile in pixels; a patch has 14, four patches are a token.
        vocabulary: Rows of the head, so that it takes 5 % of the operations.
        head_size: Of the attention of the language model.
    """

    hidden: int
    layers: int
    vision_width: int
    vision_layers: int
    tile: int
    vocabulary: int
    head_size: int = 64

    @property
    def tile_tokens(self) -> int:
        """Tokens of a tile in the language model."""
        return (self.tile // 14) ** 2 // 4

    @property
    def share(self) -> float:
        """Length of a conversation over its length with the 8B."""
        return self.tile_tokens / TILE_TOKENS_8B

    @property
    def packed_tokens(self) -> int:
        """As many as 8,192 are with the 8B."""
        return round(PACKED_TOKENS_8B * self.share)

    def config(self) -> InternVLConfig:
        """The configuration of the model."""
        return InternVLConfig(
            vision_config={
                "hidden_size": self.vision_width,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": max(1, self.vision_width // 64),
                "intermediate_size": 4 * self.vision_width,
                "image_size": [self.tile, self.tile],
                "patch_size": [14, 14],
            },
            text_config={
                "model_type": "llama",
                "vocab_size": self.vocabulary,
                "hidden_size": self.hidden,
                "intermediate_size": self.hidden * 7 // 2,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.hidden // self.head_size,
                "num_key_value_heads": self.hidden // (4 * self.head_size),
                "max_position_embeddings": 8192,
                "pad_token_id": PAD_ID,
            },
            image_token_id=IMAGE_ID,
            image_seq_length=self.tile_tokens,
            tie_word_embeddings=False,
        )


SIZES = {
    "tiny": Size(hidden=256, layers=1, vision_width=64, vision_layers=1, tile=56, vocabulary=256),
    "small": Size(hidden=512, layers=6, vision_width=128, vision_layers=5, tile=168, vocabulary=2120),
    "medium": Size(hidden=1024, layers=8, vision_width=256, vision_layers=6, tile=224, vocabulary=5760),
    "large": Size(hidden=2048, layers=16, vision_width=512, vision_layers=12, tile=448, vocabulary=23040),
    # InternVL2.5-8B itself: InternViT-300M and InternLM2.5-7B, which is a Llama with other names.
    "8b": Size(
        hidden=4096, layers=32, vision_width=1024, vision_layers=24, tile=448, vocabulary=92553, head_size=128
    ),
}


def make_model(size: Size, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model with random weights, larger where fresh ones would hardly look at their context."""
    torch.manual_seed(0)
    with torch.device(device):
        model = InternVLForConditionalGeneration._from_config(size.config(), dtype=dtype).train()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(3)
        model.get_input_embeddings().weight.mul_(20)
        model.get_output_embeddings().weight[list(CLASS_IDS)] *= 5
    return model


@dataclass(frozen=True)
class Row:
    """A conversation.

    Attributes:
        tiles: Of its picture, the thumbnail counted as one; 0 without a picture.
        ids: (n,) tokens.
        steps: (s,) positions that are judged.
        labels: (s,) 0 or 1.
    """

    tiles: int
    ids: Tensor
    steps: Tensor
    labels: Tensor


def make_rows(size: Size, number: int, seed: int = 0) -> list[Row]:
    """Rows with 1 to 12 steps, 5.6 of 22.6 words in the mean (paper, section 3.2), a tenth of them wrong.

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
