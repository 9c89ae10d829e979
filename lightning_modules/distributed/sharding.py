"""Fully sharded data parallelism (FSDP2, `fully_shard`) of a backbone and the heads on top of it.

Every transformer block of the decoder and of the vision tower is a unit that is unsharded by itself. The rest of the
base model (embeddings, projector, norms) is one more unit. The base model, the language-model head and the step head
are roots of their own. So they may be called in any order, also outside of `training_step`. A language-model head that
a reward model never calls is never unsharded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

DATA_PARALLEL = "data_parallel"


@dataclass(frozen=True)
class ShardingOptions:
    """How weights, gradients and optimizer states are sharded over the devices.

    Attributes:
        param_dtype: Dtype of unsharded weights and of computing: the name of a torch dtype, or ``auto``. ``auto`` is
            ``bfloat16`` if ``trainer.precision`` is ``bf16-mixed``, else the dtype of the weights. The shards, which
            the optimizer updates, keep the dtype of the backbone's options.
        reduce_dtype: Dtype in which gradients are reduced.
        reshard_after_forward: Free a block's unsharded weights after its forward and all-gather them again for its
            backward. False keeps them: one third less communication, but memory for the unsharded model.
        prefetch: Blocks to all-gather ahead in the forward, beyond what FSDP2 overlaps by itself.
        cpu_offload: Keep shards, gradients and optimizer states in main memory; the optimizer steps on the CPU.
        pin_memory: With ``cpu_offload``: use page-locked memory, which is faster to copy from and cannot be swapped.
        replicas: Groups of devices that each hold the whole model, sharded within the group (hybrid sharding). Weights
            are all-gathered within a group, gradients are averaged over all groups. ``nodes`` is one group per node.
        whole_to_predict: Unshard the whole model on every device for `predict`, which samples token by token. False
            all-gathers every block for every token, for models that do not fit on one device.

    Raises:
        ValueError: If an option is out of range.
    """

    param_dtype: str = "auto"
    reduce_dtype: str = "float32"
    reshard_after_forward: bool = True
    prefetch: int = 0
    cpu_offload: bool = False
    pin_memory: bool = True
    replicas: int | Literal["nodes"] = 1
    whole_to_predict: bool = True

    def __post_init__(self) -> None:
        for name in ("param_dtype", "reduce_dtype"):
            if getattr(self, name) != "auto" or name == "reduce_dtype":
                _floating_dtype(name, getattr(self, name))
        if self.prefetch < 0:
            raise ValueError(f"sharding.prefetch must be at least 0, got {self.prefetch}")
        if self.replicas != "nodes" and self.replicas < 1:
            raise ValueError(f"sharding.replicas must be at least 1, or 'nodes', got {self.replicas!r}")

    def precision(self, trainer_precision: str) -> MixedPrecisionPolicy:
        """The mixed-precision policy of FSDP2 for a ``trainer.precision``."""
        if self.param_dtype != "auto":
            computed: torch.dtype | None = _floating_dtype("param_dtype", self.param_dtype)
        else:
            computed = torch.bfloat16 if trainer_precision == "bf16-mixed" else None
        return MixedPrecisionPolicy(computed, _floating_dtype("reduce_dtype", self.reduce_dtype))

    def offload(self) -> OffloadPolicy:
        """The offload policy of FSDP2."""
        return CPUOffloadPolicy(self.pin_memory and torch.cuda.is_available()) if self.cpu_offload else OffloadPolicy()


def _floating_dtype(name: str, value: str) -> torch.dtype:
    found = getattr(torch, value, None)
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"sharding.{name} must be a floating-point torch dtype such as bfloat16, got {value!r}")
    return found


def data_mesh(mesh: DeviceMesh, options: ShardingOptions, num_nodes: int = 1) -> DeviceMesh:
    """The device mesh that weights are sharded over: one dimension (shards), or two (replicas, shards).

    Args:
        mesh: Mesh of Lightning's ModelParallelStrategy, (data parallel, tensor parallel).
        options: Number of replicas.
        num_nodes: Number of nodes of the run.

    Raises:
        ValueError: If tensor parallelism is asked for, or the number of devices is no multiple of the replicas.
    """
    names = mesh.mesh_dim_names or ()
    if "tensor_parallel" in names and mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            f"the strategy splits layers over {mesh['tensor_parallel'].size()} devices (tensor parallelism), which "
            f"these models are not made for; give tensor_parallel_size: 1 and data_parallel_size: the number of "
            f"processes, or take lightning_modules.distributed.fully_sharded.FullyShardedStrategy, which does so itself"
        )
    data = mesh[DATA_PARALLEL] if DATA_PARALLEL in names else mesh
    replicas = num_nodes if options.replicas == "nodes" else options.replicas
    if replicas == 1:
        return data
    if data.size() % replicas:
        raise ValueError(f"sharding.replicas: {data.size()} processes cannot be split into {replicas} equal groups")
    shape = (replicas, data.size() // replicas)
    return init_device_mesh(data.device_type, shape, mesh_dim_names=("replicate", "shard"))


def is_sharded(module: nn.Module) -> bool:
    """Whether a module has sharded weights."""
    return any(True for _ in _units(module))


def transformer_blocks(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """Decoder layers and vision blocks, in the order of the model; blocks inside other blocks are left out."""
    found: list[GradientCheckpointingLayer] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inside:
            found.append(module)
            inside |= set(module.modules())
    return found


def shard(
    backbone: PreTrainedModel,
    heads: list[nn.Module],
    mesh: DeviceMesh,
    options: ShardingOptions,
    trainer_precision: str = "32-true",
) -> None:
    """Shard a backbone and the heads that are called on its hidden states, in place.

    Args:
        backbone: On any device, also meta; with adapters, frozen parts, activation checkpointing and compilation.
        heads: Modules beside it, such as a step head; they compute in the dtype of their weights.
        mesh: See :func:`data_mesh`.
        options: How to shard.
        trainer_precision: Determines the dtype if ``param_dtype`` is ``auto``.
    """
    settings: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": options.reshard_after_forward,
        "mp_policy": options.precision(trainer_precision),
        "offload_policy": options.offload(),
    }
    blocks = transformer_blocks(backbone)
    head, embeddings = backbone.get_output_embeddings(), backbone.get_input_embeddings()
    is_tied = head is not None and head.weight is embeddings.weight
    for block in blocks:
        _shard_unit(block, settings)
    for number, block in enumerate(blocks):
        if following := blocks[number + 1 : number + 1 + options.prefetch]:
            cast(FSDPModule, block).set_modules_to_forward_prefetch(cast(list[FSDPModule], following))
    # The backward of a root begins where its forward ends, so that nothing would be gained by resharding in between.
    settings.pop("reshard_after_forward")
    _shard_unit(backbone.base_model, settings)
    if is_tied:
        _tie(cast(nn.Module, head), embeddings)
    elif head is not None:
        _shard_unit(head, settings)
    reduced = MixedPrecisionPolicy(None, settings["mp_policy"].reduce_dtype)
    for module in heads:
        _shard_unit(module, settings | {"mp_policy": reduced})


def _tie(head: nn.Module, embeddings: nn.Module) -> None:
    """Let a tied language-model head, which is not a unit, compute with the embeddings' weights.

    These are in the unit of the base model, which stays unsharded from its forward to the end of the backward. So they
    are unsharded when the head is called on its hidden states.
    """
    head.weight = embeddings.weight
    kept: list[Any] = []

    def take(*_: Any) -> None:
        kept.append(head._parameters["weight"])
        head._parameters["weight"] = embeddings._parameters["weight"]

    def put_back(*_: Any) -> None:
        head._parameters["weight"] = kept.pop()

    head.register_forward_pre_hook(take)
    head.register_forward_hook(put_back, always_call=True)


def gather_all(module: nn.Module) -> None:
    """Unshard all weights on every device until :func:`let_go`; ranks can then run forwards independently."""
    for part in _units(module):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def let_go(module: nn.Module, options: ShardingOptions) -> None:
    """Reshard all weights. It needs no communication."""
    units = [cast(nn.Module, part) for part in _units(module)]
    nested = {inner for part in units for child in part.children() for inner in _units(child)}
    for part in _units(module):
        # Roots stay unsharded after a forward, see `shard`.
        part.set_reshard_after_forward(options.reshard_after_forward and part in nested, recurse=False)
        part.reshard()


def computing_device(module: nn.Module) -> torch.device:
    """The device on which a module computes; its shards may be in main memory."""
    parameter = next(module.parameters())
    if not isinstance(parameter, DTensor) or parameter.device_mesh.device_type == "cpu":
        return parameter.device
    return torch.device(parameter.device_mesh.device_type, torch.accelerator.current_device_index())


def _units(module: nn.Module) -> Iterator[FSDPModule]:
    yield from (part for part in module.modules() if isinstance(part, FSDPModule))


def _shard_unit(unit: nn.Module, settings: dict[str, Any]) -> None:
    """Shard a module; modules in it with trained weights of another dtype (adapters) become units of their own.

    FSDP2 reduces all gradients of a unit in one buffer, so they must have one dtype.
    """
    trained = [
        (module, parameter)
        for module in unit.modules()
        if not isinstance(module, FSDPModule)
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad and not hasattr(parameter, "device_mesh")
    ]
    dtypes = Counter(parameter.dtype for _, parameter in trained)
    if len(dtypes) > 1:
        usual = dtypes.most_common(1)[0][0]
        for module in {module: None for module, parameter in trained if parameter.dtype != usual}:
            fully_shard(module, **settings)
    fully_shard(unit, **settings)
