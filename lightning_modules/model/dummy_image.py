"""The dummy image of ranks whose batch has no pictures while other ranks have some.

Sharded weights are all-gathered, so the vision tower can run only if all ranks run it; and every trained weight needs a
gradient on every rank. A rank without pictures therefore encodes a small blank image and adds its features to the
embeddings with a factor of 0.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel, ProcessorMixin

from lightning_modules.generation.row_attention import NAME as RUNNING_ROWS
from lightning_modules.scoring.shared_prefix import NAME as SHARED_PREFIX

_SIDE = 32
_FEATURES = ("pooler_output", "deepstack_features")


class DummyImage:
    """Makes a multimodal model encode a blank image in every forward without pictures; results do not change.

    It acts in forwards of the base model that begin a text. It does not act in forwards that continue a cache, nor in
    forwards over candidates of a shared prefix or over running rows: no rank has pictures in these.

    Args:
        backbone: Gets two hooks, unless it reads no images.
        processor: Processor of the model; makes the inputs of the blank image.
    """

    def __init__(self, backbone: PreTrainedModel, processor: ProcessorMixin) -> None:
        self._backbone = backbone
        self._inputs = _picture_inputs(backbone, processor)
        self._is_due = False
        if self._inputs:
            backbone.base_model.register_forward_pre_hook(self._notice, with_kwargs=True)
            backbone.get_decoder().register_forward_pre_hook(self._look, with_kwargs=True)

    def _notice(self, model: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        has_pictures = any(kwargs.get(name) is not None for name in (*self._inputs, "mm_encoder_outputs"))
        cache = kwargs.get("cache")
        continues = cache is not None and cache.get_seq_length() > 0
        config = self._backbone.get_decoder().config
        self._is_due = not (has_pictures or continues or config._attn_implementation in (SHARED_PREFIX, RUNNING_ROWS))

    def _look(self, decoder: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        embeddings = kwargs.get("inputs_embeds")
        if not self._is_due or embeddings is None:
            return None
        self._is_due = False
        inputs = {
            name: value.to(embeddings.device, embeddings.dtype if value.is_floating_point() else None)
            for name, value in self._inputs.items()
        }
        base_model: Any = self._backbone.base_model
        output = base_model.get_image_features(**inputs)
        # What the model itself takes from it: anything else (states before a last norm) would give gradients to weights
        # that get none from a picture, and ranks would average different lists of them.
        for leaf in tree_leaves([getattr(output, name, None) for name in _FEATURES]):
            if isinstance(leaf, Tensor):
                embeddings = embeddings + 0 * leaf.flatten()[0].to(embeddings.dtype)
        return args, kwargs | {"inputs_embeds": embeddings}


def _picture_inputs(backbone: PreTrainedModel, processor: ProcessorMixin) -> dict[str, Tensor]:
    """Inputs of the vision tower for a blank image; empty if the model has no vision tower."""
    image_processor = getattr(processor, "image_processor", None)
    features_of = getattr(backbone.base_model, "get_image_features", None)
    if image_processor is None or features_of is None:
        return {}
    processed = image_processor(images=[Image.new("RGB", (_SIDE, _SIDE), "white")], return_tensors="pt")
    known = inspect.signature(features_of).parameters
    return {name: value for name, value in processed.items() if name in known and isinstance(value, Tensor)}
