"""Floating-point operations of training, counted from what a forward really computes.

A multiplication and an addition are two operations. Norms, activations, softmax and rotary positions are left out, and
so is what activation checkpointing computes a second time: these are the operations that the step asks for, not those
that a machine spends on it (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

A matrix of W weights that sees t tokens takes 2 W t operations in the forward, 2 W t in the backward if its input needs
a gradient, and 2 W t if it is trained itself. So a model that is trained whole takes 6 a weight and token, one that
is frozen below adapters 4, and a frozen vision tower 2. Attention multiplies queries with keys and probabilities with
values, 2 products of all heads' width for each pair of a token and one that it sees, once forward and twice backward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass
class OperationCount:
    """Operations of one training step of a backbone, as a function of its batch.

    :func:`recording_operations` fills it during one forward; it holds for later batches of any size.

    Attributes:
        text_per_token: Of the matrices of the language model, and of its vocabulary head for the share of tokens that
            it was applied to.
        vision_per_row: Of the matrices of vision tower and projector, for each first index of ``pixel_values``: a tile,
            or a patch in families whose pictures are grids of patches.
        text_per_pair: Of the attention of the language model, for each pair of a token and one that it sees.
        vision_per_pair: Likewise of the vision tower.
        dtype: What most products were computed in, also where autocast or sharding chose it; None before a forward.
    """

    text_per_token: float = 0.0
    vision_per_row: float = 0.0
    text_per_pair: int = 0
    vision_per_pair: int = 0
    dtype: torch.dtype | None = None
    _vision: dict[str, Any] = field(default_factory=dict)

    def of(self, inputs: Mapping[str, Tensor], lengths: Tensor) -> Tensor:
        """Operations of a step, forward and backward.

        Args:
            inputs: The batch as the backbone gets it.
            lengths: (B,) tokens of each conversation, padding not counted.

        Returns:
            A float32 number on the device of ``lengths``, so that asking does not wait for the device.
        """
        lengths = lengths.float()
        seen = lengths * (lengths + 1) / 2
        operations = lengths.sum() * self.text_per_token + seen.sum() * self.text_per_pair
        if (pixels := inputs.get("pixel_values")) is not None:
            operations = operations + _rows(pixels) * self.vision_per_row
            operations = operations + self._vision_pairs(inputs) * self.vision_per_pair
        return operations

    def _vision_pairs(self, inputs: Mapping[str, Tensor]) -> Tensor | float:
        """Pairs of patches in all layers: of a tile, or of a frame of a grid, or of a window of it."""
        sizes = self._vision
        if (grids := inputs.get("image_grid_thw")) is not None:
            patches = (grids[:, 1] * grids[:, 2]).float()
            whole = (grids[:, 0] * patches**2).sum() * sizes["layers"]
            if not sizes["window"]:
                return whole
            windowed = (grids[:, 0] * patches).sum() * sizes["window"] * sizes["windowed_layers"]
            return whole * (1 - sizes["windowed_layers"] / sizes["layers"]) + windowed
        return float(_rows(inputs["pixel_values"])) * sizes["tokens"] ** 2 * sizes["layers"]


def _rows(pixels: Tensor) -> int:
    """Tiles or patches: all indices before channels, height and width, or the first of (patches, values)."""
    return pixels.shape[:-3].numel() if pixels.ndim > 3 else pixels.shape[0]


@contextmanager
def recording_operations(backbone: PreTrainedModel) -> Iterator[OperationCount]:
    """Count the operations of the one forward of ``backbone.base_model`` that is made within.

    Gradients must be switched on, as in training. On leaving, the count is complete. Adapters and quantized matrices
    are counted as the matrices they stand for.

    Raises:
        RuntimeError: On leaving, if there was no forward.
    """
    count = OperationCount()
    recorder = _Recorder(backbone)
    try:
        yield count
    finally:
        recorder.remove()
    recorder.fill(count)


class _Recorder:
    """Hooks that see every matrix product with weights, in the language model and outside of it."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        self.backbone = backbone
        self.inputs: dict[str, Any] = {}
        self.operations = {"text": 0, "vision": 0}
        self.dtypes: Counter[torch.dtype] = Counter()
        self.has_gradient = {"text": False, "vision": False}
        text = {id(module) for module in backbone.get_decoder().modules()}
        attention = [module for module in backbone.base_model.modules() if "Attention" in type(module).__name__]
        in_attention = {id(part) for module in attention for part in module.modules()}
        self.handles = [backbone.base_model.register_forward_pre_hook(self._see_inputs, with_kwargs=True)]
        head = backbone.get_output_embeddings()
        for module in [*backbone.base_model.modules(), *([head] if head is not None else [])]:
            if _weights(module):
                part = "text" if id(module) in text or module is head else "vision"
                self.handles.append(module.register_forward_hook(self._hook(part, id(module) in in_attention)))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _see_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.inputs = kwargs

    def _hook(self, part: str, in_attention: bool) -> Any:
        def count(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            weights, places = _weights(module), output.shape[-1]
            if isinstance(module, nn.Linear):
                tokens = output.numel() // places
            else:
                tokens = output.numel() // output.shape[1]
            is_trained = bool(module.weight.requires_grad)
            asks = any(isinstance(value, Tensor) and value.requires_grad for value in args)
            self.has_gradient[part] |= in_attention and (is_trained or asks)
            self.operations[part] += 2 * weights * tokens * (1 + int(is_trained) + int(asks))
            self.dtypes[output.dtype] += 2 * weights * tokens

        return count

    def fill(self, count: OperationCount) -> None:
        """Relate what was seen to the size of the batch.

        Raises:
            RuntimeError: If there was no forward.
        """
        ids = self.inputs.get("input_ids")
        if ids is None:
            raise RuntimeError("no forward of the backbone with input_ids was made while operations were recorded")
        config = self.backbone.config
        text = config.get_text_config(decoder=True)
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        passes = {part: 3 if asks else 1 for part, asks in self.has_gradient.items()}
        count.dtype = self.dtypes.most_common(1)[0][0]
        count.text_per_token = self.operations["text"] / ids.numel()
        count.text_per_pair = 4 * text.num_attention_heads * head_size * text.num_hidden_layers * passes["text"]
        pixels = self.inputs.get("pixel_values")
        if pixels is None:
            return
        count.vision_per_row = self.operations["vision"] / _rows(pixels)
        vision = config.vision_config
        layers = getattr(vision, "num_hidden_layers", None) or vision.depth
        full = getattr(vision, "fullatt_block_indexes", None)
        patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        count.vision_per_pair = 4 * (getattr(vision, "embed_dim", None) or vision.hidden_size) * passes["vision"]
        count._vision = {
            "layers": layers,
            "windowed_layers": layers - len(full) if full is not None else 0,
            "window": (vision.window_size // patch) ** 2 if full is not None else 0,
            "tokens": self._tile_tokens(pixels, patch),
        }

    def _tile_tokens(self, pixels: Tensor, patch: int) -> int:
        if pixels.ndim < 4:
            return 0
        extra = any(name.endswith("cls_token") for name, _ in self.backbone.named_parameters())
        return (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) + int(extra)


def _weights(module: nn.Module) -> int:
    """Numbers in the matrix of a layer, as many as it stands for where they are stored in fewer bits; 0 without one."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.weight.numel()
    return 0


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
