"""What keeps ranks in step whose batches differ: one holds pictures and another texts only.

Gradients are averaged, and the weights of a sharded block gathered, on all ranks at once. So the vision tower must run
on all of them or on none.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel, ProcessorMixin

from lightning_modules.model.text_processor import TextProcessor

_BLANK_PICTURE = (64, 64)


class VisionInStep:
    """Lets the vision tower read a blank picture where a batch has none, so that this rank does what others do.

    Its features are multiplied by zero, and nothing else changes. Every forward of the base model, also one without
    gradients, asks by a small message whether another rank has pictures; all ranks must run equally many. (DDP can do
    without: it finds out by itself which parameters had no part in a loss.)

    Args:
        backbone: Whose base model is watched from now on; to be sharded.
        processor: Makes the blank picture.

    Attributes:
        is_active: Switch it off where ranks run as many forwards as each of them needs.
    """

    def __init__(self, backbone: PreTrainedModel, processor: ProcessorMixin) -> None:
        self.is_active = True
        self._processor: Any = processor
        self._features: list[Tensor] = []
        base: Any = backbone.base_model
        base.register_forward_pre_hook(self._before, with_kwargs=True)
        # Not at the output: FSDP2 averages gradients in the order in which inputs of blocks get theirs, so that the first
        # decoder layer must have an input that needs one here as well.
        backbone.get_input_embeddings().register_forward_hook(self._add)

    def _before(self, base: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        self._features = []
        if self.is_active and self._is_wanted(inputs.get("pixel_values") is not None, next(base.parameters()).device):
            self._features = list(_used_features(base.get_image_features(**self._blank_inputs(base))))

    def _is_wanted(self, has_pictures: bool, device: torch.device) -> bool:
        anywhere = torch.tensor(int(has_pictures), device=device)
        dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        return bool(anywhere) and not has_pictures

    def _blank_inputs(self, base: Any) -> dict[str, Any]:
        picture = Image.new("RGB", _BLANK_PICTURE, (128, 128, 128))
        inputs = self._processor.image_processor(images=[[picture]], return_tensors="pt").to(base.device, base.dtype)
        known = inspect.signature(base.get_image_features).parameters
        return {name: value for name, value in inputs.items() if name in known}

    def _add(self, embeddings: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        features, self._features = self._features, []
        for feature in features:
            if feature.requires_grad:
                output = output + 0 * feature.sum().to(output)
        return output


def _used_features(output: Any) -> Iterator[Tensor]:
    """What a language model gets of an image: the projected features, and in Qwen3-VL those of earlier layers."""
    for name in ("pooler_output", "deepstack_features"):
        yield from (leaf for leaf in tree_leaves(getattr(output, name, None)) if isinstance(leaf, Tensor))


def vision_in_step(backbone: PreTrainedModel, processor: ProcessorMixin) -> VisionInStep | None:
    """Watch a model that reads pictures, in a run of several processes; None otherwise."""
    reads_pictures = not isinstance(processor, TextProcessor) and hasattr(backbone.base_model, "get_image_features")
    return VisionInStep(backbone, processor) if reads_pictures and dist.get_world_size() > 1 else None
