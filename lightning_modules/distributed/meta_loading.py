"""Models on PyTorch's meta device, and loading of sharded weights.

A run first creates its model on the meta device, without weights, because only its strategy knows where weights belong.
If the strategy shards them, every rank reads only the slices of its own shards, so that no rank holds the whole
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from datamodules.storage.checkpoint_names import loading

_STRUCTURE: ContextVar[tuple[torch.dtype | None] | None] = ContextVar("structure", default=None)
"""The dtype of the weights to come, within :func:`structure_only`; None outside of it."""


@contextmanager
def structure_only(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Within this context `load_backbone` creates models on the meta device.

    Args:
        dtype: Dtype of the weights to come, if the options leave it to the checkpoint; None takes the dtype of the
            checkpoint's configuration.
    """
    token = _STRUCTURE.set((dtype,))
    try:
        yield
    finally:
        _STRUCTURE.reset(token)


def is_structure_only() -> bool:
    """Whether models are created on the meta device now."""
    return _STRUCTURE.get() is not None


def lacks_weights(module: nn.Module) -> bool:
    """Whether a model has parameters on the meta device."""
    return any(parameter.is_meta for parameter in module.parameters())


def auto_class(config: Any) -> Any:
    """The auto class of `transformers` that loads checkpoints with this configuration."""
    is_multimodal = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM


def structure_of(config: Any, dtype: torch.dtype | None, attention_implementation: str | None) -> PreTrainedModel:
    """A model without weights: parameters and buffers on the meta device.

    Args:
        config: Configuration of the checkpoint.
        dtype: Dtype of the parameters; None takes that of :func:`structure_only`, or else of the configuration.
        attention_implementation: See `from_pretrained`.
    """
    asked = _STRUCTURE.get()
    dtype = dtype or (asked[0] if asked else None) or config.dtype or torch.float32
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(config).from_config(
            config, dtype=dtype, attn_implementation=attention_implementation, trust_remote_code=False
        )
    return model


def read_sharded(
    name_or_path: str | Path, mesh: DeviceMesh, dtype: torch.dtype | str, **arguments: Any
) -> PreTrainedModel:
    """Load a checkpoint whose parameters are sharded over the ranks of a mesh, along their first dimension.

    Every rank reads only the slices of its own shards. `from_pretrained` does the rest: it converts names and layouts
    of the checkpoint to those of the model, and handles missing weights. All ranks must call this together.

    Args:
        name_or_path: See :func:`lightning_modules.model.backbone.load_backbone`.
        mesh: Of one dimension, or of two (replicas, shards).
        dtype: ``auto``, or the dtype to convert to.
        **arguments: Further arguments of `from_pretrained`.

    Returns:
        The model on the CPU; it cannot run. Its parameters are DTensors, its buffers are not distributed.
    """
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    model_class: Any = auto_class(config)._model_mapping[type(config)]

    class Spread(model_class):  # type: ignore[misc]
        @classmethod
        def maybe_distribute_model(cls, model: PreTrainedModel, *_: Any) -> PreTrainedModel:
            """Called by `from_pretrained` after it has created the model and before it loads weights."""
            _spread(model, mesh)
            return model

    # `transformers` finds conversions of weights by the name of the class, and only for its own classes.
    Spread.__name__, Spread.__module__ = model_class.__name__, model_class.__module__
    with torch.device("cpu"), loading(name_or_path, "weights"):
        model: PreTrainedModel = Spread.from_pretrained(
            name_or_path, dtype=dtype, distributed_config=DistributedConfig(), trust_remote_code=False, **arguments
        )
    return model


def _spread(model: nn.Module, mesh: DeviceMesh) -> None:
    """Replace parameters on the meta device by DTensors, also there, that are sharded along their first dimension."""
    placements = [*[Replicate() for _ in range(mesh.ndim - 1)], Shard(0)]
    spread: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in spread:
                # Without a source rank every rank takes its own part, and nothing is sent.
                value = distribute_tensor(parameter.detach(), mesh, placements, src_data_rank=None)
                spread[id(parameter)] = nn.Parameter(value, parameter.requires_grad)
            setattr(module, name, spread[id(parameter)])


def shard_of_this_rank(whole: Tensor, like: DTensor) -> Tensor:
    """The part of a tensor that this rank holds, if it is distributed as another one is."""
    # A copy: a view would keep all of the tensor in memory.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).to_local().clone()


def rows_of(sharded: DTensor, indices: list[int]) -> Tensor:
    """Some rows of a tensor that is sharded along its first dimension, on every rank. All ranks call it together."""
    mesh = sharded.device_mesh
    local = sharded.to_local()
    _, offsets = compute_local_shape_and_global_offset(sharded.shape, mesh, sharded.placements)
    rows = torch.zeros(len(indices), *sharded.shape[1:], dtype=local.dtype, device=mesh.device_type)
    for place, index in enumerate(indices):
        if 0 <= index - offsets[0] < len(local):
            rows[place] = local[index - offsets[0]]
    all_reduce(rows, group=mesh.get_group(mesh.ndim - 1))
    return rows
