"""Models whose weights come later, and weights of which every device reads its own part.

A run begins with models that have a structure and no weights (on PyTorch's meta device), since only its strategy knows
where weights belong. Where it shards them, every process reads its slices of the checkpoint's tensors, so that no
process ever holds a whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from datamodules.storage.checkpoint_names import loading


class _Structure(NamedTuple):
    dtype: torch.dtype | None


_STRUCTURE: ContextVar[_Structure | None] = ContextVar("structure", default=None)


@contextmanager
def structure_only(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Within, `load_backbone` gives models without weights.

    Args:
        dtype: Of the weights to come, where the options leave it to the checkpoint; None takes its configuration's.
    """
    token = _STRUCTURE.set(_Structure(dtype))
    try:
        yield
    finally:
        _STRUCTURE.reset(token)


def is_structure_only() -> bool:
    """Whether models are to be made without weights."""
    return _STRUCTURE.get() is not None


def lacks_weights(module: nn.Module) -> bool:
    """Whether a model has a structure only."""
    return any(parameter.is_meta for parameter in module.parameters())


def auto_class(config: Any) -> Any:
    """The class of `transformers` that loads checkpoints with this configuration."""
    is_multimodal = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM


def structure_of(config: Any, dtype: torch.dtype | None, attention_implementation: str | None) -> PreTrainedModel:
    """A model without weights: parameters and buffers on the meta device.

    Args:
        config: Of the checkpoint.
        dtype: None takes that of :func:`structure_only`, or else the configuration's.
        attention_implementation: As of `from_pretrained`.
    """
    asked = _STRUCTURE.get()
    dtype = dtype or (asked.dtype if asked else None) or config.dtype or torch.float32
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(config).from_config(
            config, dtype=dtype, attn_implementation=attention_implementation, trust_remote_code=False
        )
    return model


def read_sharded(
    name_or_path: str | Path, mesh: DeviceMesh, dtype: torch.dtype | str, **arguments: Any
) -> PreTrainedModel:
    """A checkpoint whose parameters are spread over the processes of a mesh, along their first dimension.

    Every process reads its own slices; how names and layouts of a checkpoint become those of the model, and what is
    done about weights that are missing, is what `from_pretrained` does. All processes must call it together.

    Args:
        name_or_path: See :func:`lightning_modules.model.backbone.load_backbone`.
        mesh: Of one dimension, or of two, of which the first holds copies.
        dtype: ``auto``, or the dtype to convert to.
        **arguments: Of `from_pretrained`.

    Returns:
        The model on the CPU; it is not made to run. Parameters are DTensors, buffers are whole.
    """
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    model_class: Any = (mapping if type(config) in mapping else MODEL_FOR_CAUSAL_LM_MAPPING)[type(config)]

    class Spread(model_class):  # type: ignore[misc]
        @classmethod
        def maybe_distribute_model(cls, model: PreTrainedModel, *_: Any) -> PreTrainedModel:
            """What `from_pretrained` calls between structure and weights, for models that are to be distributed."""
            _spread(model, mesh)
            return model

    # Conversions of weights are found by the name of the class, for classes of `transformers` alone.
    Spread.__name__, Spread.__module__ = model_class.__name__, model_class.__module__
    with torch.device("cpu"), loading(name_or_path, "weights"):
        model: PreTrainedModel = Spread.from_pretrained(
            name_or_path, dtype=dtype, distributed_config=DistributedConfig(), trust_remote_code=False, **arguments
        )
    return model


def _placements(mesh: DeviceMesh) -> list[Replicate | Shard]:
    return [*[Replicate() for _ in range(mesh.ndim - 1)], Shard(0)]


def _spread(model: nn.Module, mesh: DeviceMesh) -> None:
    """Replace parameters on the meta device by distributed ones, also there."""
    spread: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in spread:
                shape, _ = compute_local_shape_and_global_offset(parameter.shape, mesh, _placements(mesh))
                local = torch.empty(shape, dtype=parameter.dtype, device="meta")
                spread[id(parameter)] = nn.Parameter(_like(parameter, local, mesh), parameter.requires_grad)
            setattr(module, name, spread[id(parameter)])


def _like(whole: Tensor, local: Tensor, mesh: DeviceMesh) -> DTensor:
    return DTensor.from_local(local, mesh, _placements(mesh), run_check=False, shape=whole.shape, stride=whole.stride())


def part_of_this_rank(whole: Tensor, mesh: DeviceMesh) -> Tensor:
    """The rows of a tensor that belong to this process."""
    shape, offsets = compute_local_shape_and_global_offset(whole.shape, mesh, _placements(mesh))
    return whole[tuple(slice(offset, offset + size) for offset, size in zip(offsets, shape, strict=True))]


def rows_of(sharded: DTensor, indices: list[int]) -> Tensor:
    """Some rows of a distributed tensor, on every process. All processes must call it together."""
    mesh = sharded.device_mesh
    local = sharded.to_local()
    _, offsets = compute_local_shape_and_global_offset(sharded.shape, mesh, sharded.placements)
    rows = torch.zeros(len(indices), *sharded.shape[1:], dtype=local.dtype, device=mesh.device_type)
    for place, index in enumerate(indices):
        if 0 <= index - offsets[0] < len(local):
            rows[place] = local[index - offsets[0]]
    all_reduce(rows, group=mesh.get_group(mesh.ndim - 1))
    return rows
