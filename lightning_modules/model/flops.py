"""Floating-point operations of training, by formula.

A multiplication and an addition are two operations. Norms, activations, softmax and rotary positions are left out, and
so is what activation checkpointing computes a second time: these are the operations that the step asks for, not those
that a machine spends on it (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

A matrix of W weights that sees t tokens takes 2 W t operations in the forward, 2 W t in the backward if anything before
it is trained, and 2 W t if it is trained itself: 6 a weight and token of a model that is trained whole, 4 of one that
is frozen below adapters, 2 of a frozen vision tower. Attention multiplies queries with keys and probabilities with
values, 2 products of all heads' width for each pair of a token and one that it sees, once forward and twice backward.
The sum is within 3 % of what :mod:`torch.utils.flop_counter` counts, also with frozen parts. With adapters it is too
high by part of the first layer's backward: 3.3 % of a model of two layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_modules.model.families import PARTS, attention_layers, part_of


@dataclass(frozen=True)
class OperationCount:
    """Operations of a training step of a backbone, as a function of its batch; see :func:`count_operations`.

    Attributes:
        per_token: Of the matrices of each part: ``language_model`` for a token of text, ``vision`` for a patch,
            ``projector`` for an image token in the text, ``head`` for a token that the vocabulary head is applied to.
        text_per_pair: Of the attention of the language model, for each pair of a token and one that it sees.
        vision_per_pair: Of that of the vision tower, in one layer.
        config: Of the backbone.
        class_tokens: Of a tile, beside its patches.
    """

    per_token: Mapping[str, int]
    text_per_pair: int
    vision_per_pair: int
    config: Any
    class_tokens: int

    def of(self, inputs: Mapping[str, Tensor], lengths: Tensor, predicted: int = 0) -> Tensor:
        """Operations of a step, forward and backward.

        Args:
            inputs: The batch as the backbone gets it.
            lengths: (B,) tokens of each conversation, padding not counted.
            predicted: Tokens that the vocabulary head is applied to.

        Returns:
            A float32 number on the device of ``lengths``, so that asking does not wait for the device.
        """
        lengths = lengths.float()
        seen = lengths * (lengths + 1) / 2
        operations = lengths.sum() * self.per_token["language_model"] + seen.sum() * self.text_per_pair
        operations = operations + predicted * self.per_token["head"]
        if (pixels := inputs.get("pixel_values")) is not None:
            patches, pairs = self._patches_and_pairs(pixels, inputs.get("image_grid_thw"))
            image_tokens = (inputs["input_ids"] == self.config.image_token_id).sum()
            operations = operations + image_tokens * self.per_token["projector"]
            operations = operations + patches * self.per_token["vision"] + pairs * self.vision_per_pair
        return operations

    def _patches_and_pairs(self, pixels: Tensor, grids: Tensor | None) -> tuple[float, Tensor | float]:
        """Patches, class tokens among them, and pairs of them in all layers.

        They see those of their tile; or of their frame, in some families of their window of it, where pictures come as
        grids of patches.
        """
        vision = self.config.vision_config
        layers = getattr(vision, "num_hidden_layers", None) or vision.depth
        patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        if grids is None:
            tiles = pixels.shape[:-3].numel()
            patches = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) + self.class_tokens
            return tiles * patches, float(tiles * patches**2 * layers)
        of_frames = (grids[:, 1] * grids[:, 2]).float()
        unlimited = getattr(vision, "fullatt_block_indexes", None)
        windowed = 0 if unlimited is None else layers - len(unlimited)
        pairs = (grids[:, 0] * of_frames**2).sum() * (layers - windowed)
        if windowed:
            pairs = pairs + (grids[:, 0] * of_frames).sum() * (vision.window_size // patch) ** 2 * windowed
        return pixels.shape[0], pairs


def count_operations(backbone: PreTrainedModel) -> OperationCount:
    """Count the operations of a backbone as it is trained now; adapters and quantized matrices as what they stand for.

    A sliding window, and experts of which tokens see a changing share, are not known to it.
    """
    part_of_parameter, head = part_of(backbone), backbone.get_output_embeddings()
    per_token: dict[str, int] = {}
    has_backward: dict[str, bool] = {}
    is_reached = False
    for part in PARTS:  # in the order of a forward
        started, operations = is_reached, 0
        for name, module in backbone.named_modules():
            if module is not head and part_of_parameter.get(f"{name}.weight") == part:
                is_trained = any(parameter.requires_grad for parameter in module.parameters())
                operations += 2 * _weights(module) * (1 + is_reached + is_trained)
                is_reached |= is_trained
        per_token[part], has_backward[part] = operations, started
    is_trained = head is not None and head.weight.requires_grad
    per_token["head"] = 0 if head is None else 2 * _weights(head) * (1 + is_reached + is_trained)
    text, vision = backbone.config.get_text_config(decoder=True), getattr(backbone.config, "vision_config", None)
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    trained = (any(p.requires_grad for p in layer.parameters()) for layer in attention_layers(backbone))
    reached = list(accumulate(trained, or_, initial=has_backward["language_model"]))[1:]
    width = 0 if vision is None else getattr(vision, "embed_dim", None) or vision.hidden_size
    return OperationCount(
        per_token=per_token,
        text_per_pair=4 * text.num_attention_heads * head_size * (len(reached) + 2 * sum(reached)),
        vision_per_pair=4 * width * (3 if has_backward["projector"] else 1),
        config=backbone.config,
        class_tokens=int(any(name.endswith("cls_token") for name in part_of_parameter)),
    )


def _weights(module: nn.Module) -> int:
    """Numbers in the matrix of a layer, as many as it stands for where they are stored in fewer bits; 0 without one."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return module.weight.numel() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) else 0


# Dense matrix products, in 10^12 a second, without sparsity, of tensor cores; float32 is what torch computes by
# default, so without TF32. Data sheets of NVIDIA: H100 and H200 (2023, SXM unless said), A100 (2020), L40S (2023), L4
# (2023), Ada architecture white paper (RTX 4090, 2022; half precision with float32 accumulation), V100 (2017), B200
# (2024).
_PEAKS: list[tuple[str, dict[torch.dtype, float]]] = [
    ("B200", {torch.bfloat16: 2250, torch.float16: 2250}),
    ("H200 NVL", {torch.bfloat16: 835, torch.float16: 835, torch.float32: 60}),
    ("H200", {torch.bfloat16: 989.4, torch.float16: 989.4, torch.float32: 67}),
    ("H100 PCIe", {torch.bfloat16: 756, torch.float16: 756, torch.float32: 51}),
    ("H100 NVL", {torch.bfloat16: 835, torch.float16: 835, torch.float32: 60}),
    ("H100", {torch.bfloat16: 989.4, torch.float16: 989.4, torch.float32: 67}),
    ("A100", {torch.bfloat16: 312, torch.float16: 312, torch.float32: 19.5}),
    ("L40S", {torch.bfloat16: 362, torch.float16: 362, torch.float32: 91.6}),
    ("L4", {torch.bfloat16: 121, torch.float16: 121, torch.float32: 30.3}),
    ("RTX 4090", {torch.bfloat16: 165.2, torch.float16: 165.2, torch.float32: 82.6}),
    ("V100", {torch.float16: 125, torch.float32: 15.7}),
]


def peak_operations(device_name: str, dtype: torch.dtype) -> float | None:
    """Highest rate of dense matrix products of a GPU, in operations a second, by its vendor; None where unknown.

    Args:
        device_name: As of :func:`torch.cuda.get_device_name`.
        dtype: Of the products.
    """
    words = device_name.replace("-", " ").split()
    for name, peaks in _PEAKS:
        if all(word in words for word in name.split()):
            return peaks[dtype] * 1e12 if dtype in peaks else None
    return None
