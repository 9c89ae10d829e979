"""Training speed. Lightning's ThroughputMonitor does not know frozen parts, padding and waiting for data."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lightning_modules.callbacks.reporting import log_scalars
from lightning_modules.distributed.fully_sharded import FullyShardedStrategy
from lightning_modules.model.flops import OperationCount, count_operations, peak_operations

logger = logging.getLogger(__name__)

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Throughput(Callback):
    """Logs the speed of training every ``log_every_n_steps`` optimizer steps.

    - ``throughput/samples_per_second`` and ``throughput/tokens_per_second``: of all ranks together; with the suffix
      ``_per_device``, of one. Padding is not counted. The time includes waiting for data, but not validation.
    - ``throughput/data_wait_share``: share of that time, in [0, 1], in which ranks wait for their next batch, mean over
      ranks; only if the DataLoader measures it (see :class:`datamodules.batching.order.LazyLoader`).
    - ``throughput/operations_per_second_per_device``: only if the module has a ``backbone``.
    - ``throughput/mfu``: model FLOPs utilisation, which is that rate over the peak rate of the device.

    Operations are those of :mod:`lightning_modules.model.flops`. Per weight and token there are 6 if the whole model is
    trained, 4 in a frozen model with adapters, and 2 in a frozen vision tower. Attention is added. The language-model
    head counts for the tokens that it is applied to. Not counted are recomputed activations, padding, embeddings, and
    the step head.

    Batches must be :class:`datamodules.batching.conversation_batch.ConversationBatch` with ``sample_ids`` (B names).
    Counts stay on the device and are read once a window, so that steps do not wait for the device.

    Args:
        peak_flops: Highest number of operations per second of one device at the precision of training. By default the
            vendor's figure for known GPUs. If it is unknown, as on a CPU, there is no MFU.

    Raises:
        ValueError: If ``peak_flops`` is not positive.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        if peak_flops is not None and not peak_flops > 0:
            raise ValueError(f"peak_flops must be above 0, got {peak_flops}")
        self.peak_flops = peak_flops
        self._peak: float | None = None
        self._operation_count: OperationCount | None = None
        self._head: RemovableHandle | None = None
        self._predicted = 0
        self._evaluation_began = 0.0
        self._tokens = self._operations = torch.zeros(())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the operations of the model, find the peak rate of the device, and start the clock."""
        backbone: Any = getattr(pl_module, "backbone", None)
        if backbone is not None:
            self._operation_count = count_operations(backbone)
            self._peak = self.peak_flops or _peak_of(pl_module.device, _computed_dtype(trainer, backbone))
            if (head := backbone.get_output_embeddings()) is not None:
                self._head = head.register_forward_hook(self._see_predicted)
        self._reset(trainer, pl_module.device)

    def _see_predicted(self, head: nn.Module, args: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():
            self._predicted += output.shape[:-1].numel()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when the evaluation began."""
        self._evaluation_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time of the evaluation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._began += time.perf_counter() - self._evaluation_began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and log if the window is full."""
        lengths = batch.lengths.to(pl_module.device, non_blocking=True)
        self._samples += len(batch.sample_ids)
        self._tokens = self._tokens + lengths.sum()
        if self._operation_count is not None:
            operations = self._operation_count.of(batch.inputs, lengths, self._predicted)
            self._operations = self._operations + operations
        self._predicted = 0
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step - self._logged_at >= every:
            self._log(trainer, pl_module.device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last window, which may be shorter."""
        if self._samples:
            self._log(trainer, pl_module.device)
        if self._head is not None:
            self._head.remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hook."""
        if self._head is not None:
            self._head.remove()

    def _log(self, trainer: Trainer, device: torch.device) -> None:
        seconds = time.perf_counter() - self._began
        waited = getattr(trainer.train_dataloader, "seconds_waited", None)
        known = torch.tensor([self._samples, (waited or 0.0) / seconds], device=device)
        counts = torch.stack([*known, self._tokens, self._operations])
        samples, wait_shares, tokens, operations = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        devices = trainer.world_size
        scalars = {
            "throughput/samples_per_second": samples / seconds,
            "throughput/tokens_per_second": tokens / seconds,
        }
        scalars |= {f"{name}_per_device": rate / devices for name, rate in scalars.items()}
        if operations:
            scalars["throughput/operations_per_second_per_device"] = operations / seconds / devices
            if self._peak is not None:
                scalars["throughput/mfu"] = operations / seconds / devices / self._peak
        if waited is not None:
            scalars["throughput/data_wait_share"] = wait_shares / devices
        log_scalars(trainer, scalars)
        self._reset(trainer, device)

    def _reset(self, trainer: Trainer, device: torch.device) -> None:
        self._samples, self._logged_at, self._began = 0, trainer.global_step, time.perf_counter()
        self._tokens = self._operations = torch.zeros((), device=device)
        loader: Any = trainer.train_dataloader
        if hasattr(loader, "seconds_waited"):
            loader.seconds_waited = 0.0


def _computed_dtype(trainer: Trainer, backbone: PreTrainedModel) -> torch.dtype:
    """The dtype of matrix products: from autocast, from sharding, or that of the weights."""
    if trainer.precision in _AUTOCAST:
        return _AUTOCAST[trainer.precision]
    strategy = trainer.strategy
    sharded = strategy.sharding.precision(trainer.precision) if isinstance(strategy, FullyShardedStrategy) else None
    return (sharded and sharded.param_dtype) or backbone.dtype


def _peak_of(device: torch.device, dtype: torch.dtype) -> float | None:
    """The peak rate of a device, or None if it is unknown; the known ones of float32 are without TF32."""
    is_tf32 = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"this {device.type}"
    peak = None if is_tf32 else peak_operations(name, dtype)
    if peak is None:
        logger.info(
            "throughput/mfu is not logged: the peak rate of %s in %s is not known; give Throughput peak_flops",
            name,
            str(dtype).removeprefix("torch."),
        )
    return peak
