"""Arithmetic operations of InternVL-like models, counted by formula.

A multiplication and an addition are two operations. Linear layers count 2 x weights per token. Attention counts pairs
of a token and a token that it attends to (2 products of the head size, in every head). Norms, activations and softmax
are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """Sizes that the operations depend on.

    Attributes:
        vision_width: Of the vision transformer.
        vision_layers: Its depth.
        vision_intermediate: Width of its MLP.
        patches: Patches of a tile, without the class token.
        patch_values: Numbers in a patch (side x side x 3).
        image_tokens: Tokens of a tile in the language model.
        hidden: Width of the language model.
        layers: Its depth.
        intermediate: Width of its gated MLP.
        query_size: All query heads together.
        key_size: All key heads together.
        vocabulary: Rows of its head.
    """

    vision_width: int
    vision_layers: int
    vision_intermediate: int
    patches: int
    patch_values: int
    image_tokens: int
    hidden: int
    layers: int
    intermediate: int
    query_size: int
    key_size: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """The shape of an ``InternVLConfig``."""
        vision, text = config.vision_config, config.get_text_config()
        (height, width), (rows, columns) = vision.image_size, vision.patch_size
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            vision_width=vision.hidden_size,
            vision_layers=vision.num_hidden_layers,
            vision_intermediate=vision.intermediate_size,
            patches=(height // rows) * (width // columns),
            patch_values=rows * columns * vision.num_channels,
            image_tokens=config.image_seq_length,
            hidden=text.hidden_size,
            layers=text.num_hidden_layers,
            intermediate=text.intermediate_size,
            query_size=text.num_attention_heads * head_size,
            key_size=text.num_key_value_heads * head_size,
            vocabulary=text.vocab_size,
        )

    def image(self, tiles: int) -> int:
        """Operations of the vision tower and the projector."""
        tokens, width = self.patches + 1, self.vision_width
        layer = 2 * tokens * (4 * width**2 + 2 * width * self.vision_intermediate) + 4 * tokens**2 * width
        shuffled = self.patches // self.image_tokens * width
        projector = 2 * self.image_tokens * (shuffled * self.hidden + self.hidden**2)
        return tiles * (2 * self.patches * self.patch_values * width + self.vision_layers * layer + projector)

    @property
    def text_weights(self) -> int:
        """Weights of the language model that apply to every token, without the head."""
        attention = 2 * self.hidden * (self.query_size + self.key_size)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    def text(self, tokens: int, *, after: int = 0) -> int:
        """Operations of the language model on ``tokens`` tokens that follow ``after`` others."""
        pairs = tokens * after + tokens * (tokens + 1) // 2
        return 2 * tokens * self.text_weights + 4 * pairs * self.query_size * self.layers

    def head(self, tokens: int, rows: int | None = None) -> int:
        """Operations of the language-model head on ``tokens`` tokens; with all rows by default."""
        return 2 * tokens * self.hidden * (rows or self.vocabulary)


VISUALPRM_8B = ModelShape(
    vision_width=1024,
    vision_layers=24,
    vision_intermediate=4096,
    patches=1024,
    patch_values=14 * 14 * 3,
    image_tokens=256,
    hidden=4096,
    layers=32,
    intermediate=14336,
    query_size=4096,
    key_size=1024,
    vocabulary=92553,
)
"""InternViT-300M at 448 pixels and InternLM2-7B."""


@dataclass(frozen=True)
class Workload:
    """N candidates of one question.

    Attributes:
        tiles: Tiles of its picture, the thumbnail included.
        text_tokens: Text tokens of the shared prefix.
        step_ends: For each candidate, the number of its tokens up to and including each step position.
    """

    tiles: int
    text_tokens: int
    step_ends: Sequence[Sequence[int]]

    def prefix(self, shape: ModelShape) -> int:
        """Tokens of the shared prefix."""
        return self.tiles * shape.image_tokens + self.text_tokens

    def one_forward_a_step(self, shape: ModelShape) -> int:
        """Operations of the released "soft" scoring: one forward up to each step, vocabulary logits of all tokens."""
        return sum(self._whole(shape, end) for ends in self.step_ends for end in ends)

    def one_forward_a_response(self, shape: ModelShape) -> int:
        """Operations of the released "soft_v2" scoring: one forward per response, vocabulary logits of all tokens."""
        return sum(self._whole(shape, ends[-1]) for ends in self.step_ends)

    def _whole(self, shape: ModelShape, end: int) -> int:
        tokens = self.prefix(shape) + end
        return shape.image(self.tiles) + shape.text(tokens) + shape.head(tokens)

    def floor(self, shape: ModelShape, classes: int = 2) -> int:
        """The least possible: picture and prefix once, each candidate once, class rows at step positions only."""
        prefix = self.prefix(shape)
        candidates = sum(shape.text(ends[-1], after=prefix) for ends in self.step_ends)
        judged = sum(map(len, self.step_ends))
        return shape.image(self.tiles) + shape.text(prefix) + candidates + shape.head(judged, classes)


def usual_workload(tiles: int, candidates: int, text_tokens: int = 125, step_tokens: int = 40) -> Workload:
    """Candidates of 4 to 8 steps, 6 on average; with 40 tokens per step, 240 tokens."""
    counts = [(4, 8, 5, 7, 6, 6, 5, 7)[number % 8] for number in range(candidates)]
    return Workload(tiles, text_tokens, [[step_tokens * (step + 1) for step in range(count)] for count in counts])
