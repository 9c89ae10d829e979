"""The strategy that shards a model over all devices of all nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.device_dtype_mixin import _DeviceDtypeModuleMixin
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor

from lightning_modules.checkpointing.folder import write_folder
from lightning_modules.checkpointing.reading import load_shards
from lightning_modules.distributed.sharding import ShardingOptions


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy for FSDP2 only: all ranks are data parallel, so no sizes are needed.

    Args:
        sharding: How modules shard themselves in `configure_model`; the defaults if None.
        **settings: Further arguments of ModelParallelStrategy.
    """

    def __init__(self, sharding: ShardingOptions | None = None, **settings: Any) -> None:
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1, **settings)
        self.sharding = sharding or ShardingOptions()

    def setup_environment(self) -> None:
        """Connect the ranks; Lightning would replace `auto` by the number of nodes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def model_to_device(self) -> None:
        """Move what is not sharded. Shards stay where they are, which may be main memory."""
        assert self.model is not None
        _move_unsharded(self.model, self.root_device)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a folder, completely or not at all; every rank writes its shards."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        write_folder(Path(self.broadcast(filepath)), checkpoint, together=True)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a folder, written by any number of ranks, into the shards; a file is loaded as by Lightning."""
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_dir():
            return super().load_checkpoint(path, weights_only=True)
        module: Any = self.lightning_module
        check = getattr(module, "check_stored", None)
        return load_shards(path, module, self.optimizers, strict=module.strict_loading, check=check)


def _move_unsharded(module: nn.Module, device: torch.device) -> None:
    if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        module.to(device)
        return
    for parameter in module.parameters(recurse=False):
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        module._buffers[name] = buffer.to(device)
    for child in module.children():
        _move_unsharded(child, device)
    if isinstance(module, _DeviceDtypeModuleMixin):
        module._device = device
