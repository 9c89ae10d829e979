"""Weights on their way into a sharded model, and out of it again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lightning_modules.distributed.meta_loading import part_of_this_rank, rows_of
from lightning_modules.distributed.sharding import computing_device
from lightning_modules.model.lora import initial_adapter, is_adapter
from lightning_modules.model.step_head import StepHead, language_model_head


def _name_in_source(name: str) -> str:
    """What a weight was called before an adapter was put around its layer."""
    return name.replace(".base_layer.", ".")


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By all of their names, where several share a weight."""
    return dict(model.named_parameters(remove_duplicate=False))


def take_dtypes(structure: PreTrainedModel, source: PreTrainedModel) -> None:
    """Give parameters without weights the dtypes of the weights to come, which may differ within a model."""
    dtypes = {name: parameter.dtype for name, parameter in _parameters(source).items()}
    for name, parameter in structure.named_parameters():
        if not is_adapter(name):
            parameter.data = parameter.data.to(dtypes[_name_in_source(name)])


def fill(
    backbone: PreTrainedModel, heads: Sequence[nn.Module], source: PreTrainedModel, *, cpu_offload: bool = False
) -> None:
    """Put weights into a sharded structure. All ranks must call it together.

    Args:
        backbone: Sharded, without weights.
        heads: Step heads, likewise; they get the rows of the language-model head.
        source: The checkpoint of :func:`lightning_modules.distributed.meta_loading.read_sharded`. Its weights are taken
            over, so that they are held once.
        cpu_offload: Whether shards are kept in main memory.
    """
    seeds = [torch.initial_seed()]
    dist.broadcast_object_list(seeds)
    weights = _parameters(source)
    taken: set[int] = set()

    def locals_of_backbone() -> Iterator[tuple[str, Tensor]]:
        for name, parameter in backbone.named_parameters():
            assert isinstance(parameter, DTensor)
            if is_adapter(name):
                yield name, part_of_this_rank(initial_adapter(name, parameter.shape, seeds[0]), parameter.device_mesh)
                continue
            weight = weights[_name_in_source(name)]
            assert isinstance(weight, DTensor)
            # Two parameters may begin with one weight: the head of a tied model that was untied.
            yield name, weight.to_local().clone() if id(weight) in taken else weight.to_local()
            taken.add(id(weight))

    _assign(backbone, locals_of_backbone(), cpu_offload)
    for head in heads:
        assert isinstance(head, StepHead)
        _assign(head, _rows(head, language_model_head(source)), cpu_offload)
    buffers = dict(source.named_buffers())
    for path, module in backbone.named_modules():
        for name, _ in module.named_buffers(recurse=False):
            value = buffers[_name_in_source(f"{path}.{name}".lstrip("."))]
            module._buffers[name] = value.to(computing_device(backbone))


def _rows(head: StepHead, whole: nn.Linear) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in head.named_parameters():
        values: Any = getattr(whole, name)
        rows = rows_of(values, head.token_ids).to("cpu", parameter.dtype)
        assert isinstance(parameter, DTensor)
        yield name, part_of_this_rank(rows, parameter.device_mesh)


def _assign(model: nn.Module, values: Iterator[tuple[str, Tensor]], cpu_offload: bool) -> None:
    """Make this rank's parts the weights of a sharded model, a parameter at a time."""
    owners: defaultdict[int, list[tuple[nn.Module, str]]] = defaultdict(list)  # of weights that are tied, several
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners[id(parameter)].append((module, name))
    with torch.no_grad():
        for name, local in values:
            old = model.get_parameter(name)
            assert isinstance(old, DTensor)
            if local.shape != old.to_local().shape or local.dtype != old.dtype:
                raise RuntimeError(
                    f"{name}: read {list(local.shape)} {local.dtype} for a part {list(old.to_local().shape)} of "
                    f"{list(old.shape)} {old.dtype}"
                )
            value = DTensor.from_local(
                local,
                old.device_mesh,
                old.placements,
                run_check=False,
                shape=old.shape,
                stride=old.stride(),
            )
            # On the device of the mesh so far.
            new = nn.Parameter(value.cpu() if cpu_offload else value, requires_grad=old.requires_grad)
            for owner, last in owners[id(old)]:
                owner.register_parameter(last, new)


def gather_into(whole: nn.Module, sharded: nn.Module) -> bool:
    """Fill a structure with the weights of a sharded module, on the CPU of rank zero, one tensor at a time.

    All ranks must call it together.

    Args:
        whole: Has the same parameters and buffers, those on the meta device are replaced.
        sharded: Is left as it is.

    Returns:
        Whether this is rank zero; on the others ``whole`` has no weights still.
    """
    is_zero = dist.get_rank() == 0
    buffers = dict(sharded.named_buffers())
    targets = {id(parameter): parameter for parameter in whole.parameters()}
    weights = _parameters(sharded)
    done: dict[int, nn.Parameter] = {}
    with torch.no_grad():
        for path, module in whole.named_modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if not parameter.is_meta and id(parameter) in targets:
                    continue
                if id(parameter) not in done:
                    value = weights[f"{path}.{name}".lstrip(".")].detach()
                    # Shards may be in main memory, where NCCL cannot gather.
                    on_mesh = value.to(value.device_mesh.device_type) if isinstance(value, DTensor) else value
                    gathered = on_mesh.full_tensor() if isinstance(on_mesh, DTensor) else on_mesh
                    done[id(parameter)] = nn.Parameter(
                        gathered.cpu() if is_zero else torch.empty_like(gathered, device="meta"),
                        requires_grad=parameter.requires_grad,
                    )
                    del gathered
                module.register_parameter(name, done[id(parameter)])
            for name, buffer in list(module.named_buffers(recurse=False)):
                if buffer.is_meta and is_zero:
                    module._buffers[name] = buffers[f"{path}.{name}".lstrip(".")].cpu()
    return is_zero
