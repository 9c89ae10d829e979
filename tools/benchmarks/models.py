"""Random models in the proportions of VisualPRM-8B, for the benchmarks of scoring and of training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedModel

CLASS_IDS = (10, 11)
FIRST_TEXT_ID, IMAGE_ID, PAD_ID = 20, 1, 0
TILE_TOKENS_8B, PACKED_TOKENS_8B = 256, 8192


@dataclass(frozen=True)
class Size:
    """A model in the 8B's proportions: width to tokens of a tile, vision tower and vocabulary head to language model.

    Attributes:
        hidden: Width of the language model; its MLP is 3.5 times as wide, four query heads share a key head.
        layers: Layers of the language model.
        vision_width: Width of the vision tower.
        vision_layers: Layers of the vision tower.
        tile: Side of a tile in pixels; a patch has 14 pixels, four patches are a token.
        vocabulary: Rows of the head; it takes 5 % of the operations.
        head_size: Attention head size of the language model.
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
        """Ratio of a conversation's length to its length with the 8B."""
        return self.tile_tokens / TILE_TOKENS_8B

    @property
    def packed_tokens(self) -> int:
        """The number that corresponds to 8,192 tokens of the 8B."""
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


def make_model(size: Size, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model in evaluation mode with random weights, larger where fresh ones would hardly look at their context."""
    torch.manual_seed(0)
    with torch.device(device):
        model = InternVLForConditionalGeneration._from_config(size.config(), dtype=dtype).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(3)
        model.get_input_embeddings().weight.mul_(20)
        model.get_output_embeddings().weight[list(CLASS_IDS)] *= 5
    return model
