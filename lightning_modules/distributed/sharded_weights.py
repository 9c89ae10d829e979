"""Put weights into a sharded model, and gather them from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lightning_modules.distributed.meta_loading import rows_of, shard_of_this_rank
from lightning_modules.distributed.sharding import computing_device
from lightning_modules.model.lora import initial_adapter, is_adapter
from lightning_modules.model.step_head import StepHead, language_model_head


def _name_in_source(name: str) -> str:
    """The name of a weight before an adapter was put around its layer."""
    return name.replace(".base_layer.", ".")


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name; a tied parameter is there under each of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


def take_dtypes(structure: PreTrainedModel, source: PreTrainedModel) -> None:
    """Give parameters on the meta device the dtypes of the weights to come, which may differ within a model."""
    dtypes = {name: parameter.dtype for name, parameter in _parameters(source).items()}
    for name, parameter in structure.named_parameters():
        if not is_adapter(name):
            parameter.data = parameter.data.to(dtypes[_name_in_source(name)])


@torch.no_grad()
def fill(
    backbone: PreTrainedModel, heads: Sequence[nn.Module], source: PreTrainedModel, *, cpu_offload: bool = False
) -> None:
    """Put weights into a sharded model on the meta device. All ranks must call it together.

    Args:
        backbone: Sharded, on the meta device.
        heads: Step heads, sharded, on the meta device; they get rows of the language-model head.
        source: The checkpoint of :func:`lightning_modules.distributed.meta_loading.read_sharded`. Its tensors are used,
            not copied.
        cpu_offload: Whether shards are kept in main memory.
    """
    seeds = [torch.initial_seed()]
    dist.broadcast_object_list(seeds)
    weights = _parameters(source)
    taken: set[int] = set()

    def of_backbone(name: str, parameter: DTensor) -> Tensor:
        if is_adapter(name):
            return shard_of_this_rank(initial_adapter(name, parameter.shape, seeds[0]), parameter)
        weight: Any = weights[_name_in_source(name)]
        local: Tensor = weight.to_local()
        # Two parameters may start from one weight: embeddings and the head of a model that was untied.
        local = local.clone() if id(weight) in taken else local
        taken.add(id(weight))
        return local

    def of_head(name: str, parameter: DTensor) -> Tensor:
        values: Any = getattr(language_model_head(source), name)
        ids: Any = head.token_ids
        rows = rows_of(values, ids)
        return shard_of_this_rank(rows.to("cpu", parameter.dtype), parameter)

    _assign(backbone, of_backbone, cpu_offload)
    for head in heads:
        assert isinstance(head, StepHead)
        _assign(head, of_head, cpu_offload)
    _take_buffers(backbone, {name: buffer.to(computing_device(backbone)) for name, buffer in source.named_buffers()})


def _assign(model: nn.Module, shard_of: Callable[[str, DTensor], Tensor], cpu_offload: bool) -> None:
    """Replace the parameters of a sharded model by new ones, given the shard of this rank; tied ones stay tied."""
    new: dict[int, nn.Parameter] = {}
    state: dict[str, nn.Parameter] = {}
    for name, old in _parameters(model).items():
        assert isinstance(old, DTensor)
        if id(old) not in new:
            value = DTensor.from_local(
                shard_of(name, old),
                old.device_mesh,
                old.placements,
                run_check=False,
                shape=old.shape,
                stride=old.stride(),
            )
            # `from_local` puts it on the device of the mesh.
            new[id(old)] = nn.Parameter(value.cpu() if cpu_offload else value, requires_grad=old.requires_grad)
        state[name] = new[id(old)]
    model.load_state_dict(state, strict=False, assign=True)


def gather_into(whole: nn.Module, sharded: nn.Module) -> bool:
    """Fill a module on the meta device with the weights of a sharded one, on the CPU of rank zero.

    One tensor is all-gathered at a time. All ranks must call it together.

    Args:
        whole: Has the same parameters and buffers as ``sharded``.
        sharded: It is not changed.

    Returns:
        Whether this is rank zero; on other ranks ``whole`` stays on the meta device.
    """
    state: dict[str, Any] = get_model_state_dict(
        sharded, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if dist.get_rank():
        return False
    new: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for name, parameter in _parameters(whole).items():
        new.setdefault(id(parameter), nn.Parameter(state[name], parameter.requires_grad))
    whole.load_state_dict({name: new[id(p)] for name, p in _parameters(whole).items()}, strict=False, assign=True)
    _take_buffers(whole, {_name_in_source(name): buffer.cpu() for name, buffer in sharded.named_buffers()})
    return True


def _take_buffers(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Replace the buffers of a model; most of them are in no state dictionary."""
    for path, module in model.named_modules():
        for name, _ in module.named_buffers(recurse=False):
            module._buffers[name] = buffers[_name_in_source(f"{path}.{name}".lstrip("."))]
