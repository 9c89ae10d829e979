"""The strategy that shards a model over all devices of all nodes, whatever their number."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy

from lightning_modules.model.sharding import ShardingOptions


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy for FSDP2 alone: all processes are data parallel, so no sizes are given.

    Args:
        sharding: How modules shard themselves in `configure_model`; the defaults if None.
        **settings: Of ModelParallelStrategy.
    """

    def __init__(self, sharding: ShardingOptions | None = None, **settings: Any) -> None:
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1, **settings)
        self.sharding = sharding or ShardingOptions()

    def setup_environment(self) -> None:
        """Connect the processes; Lightning itself would take `auto` for the number of nodes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
