"""Training speed."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.callbacks.reporting import log_scalars
from lightning_modules.model.flops import OperationCount, peak_operations, recording_operations

logger = logging.getLogger(__name__)


class Throughput(Callback):
    """Logs the speed of training every ``log_every_n_steps`` optimizer steps.

    - ``throughput/samples_per_second`` and ``tokens_per_second``: of all ranks together, and with ``_per_device`` of
      one; padding is not counted. The time includes waiting for data and leaves validation out.
    - ``throughput/data_wait_share``: share of that time, in [0, 1], in which ranks wait for their next batch, on
      average; where the dataloader measures it (see :class:`datamodules.batching.order.LazyLoader`).
    - ``throughput/operations_per_second_per_device``, where the module has a ``backbone``, and
      ``throughput/mfu``, the model FLOPs utilisation, that rate over the peak of the device.

    The operations of a step (Chowdhery et al. 2022, arXiv 2204.02311, appendix B) are, forward and backward, for t
    tokens of conversations of n tokens each, and vision towers that see p patches a tile or picture::

        6 W t + 12 layers width sum(n (n + 1) / 2)          language model of W weights in matrices, causal attention
        + 6 W_v p + 12 layers_v width_v sum(p^2)            vision tower and projector, by their own tokens

    6 is 2 forward, 2 for the gradient of the input, and 2 for that of the weight. Which of them are due is seen at
    every matrix in the first step: 4 for frozen ones below something that is trained (adapters are matrices of their
    own), 2 for those in a frozen vision tower; 12 is 4 forward and 8 backward, and 4 alone where nothing below is
    trained. A vocabulary head counts for the share of tokens that it sees in that step. What activation checkpointing
    computes a second time, padding, and embeddings do not count, and neither does a step head (2 K width operations a
    step). A sliding window, and experts of which tokens see a changing share, are not known to it.

    Batches must have ``sample_ids`` (B) and ``lengths`` (B), or ``inputs["attention_mask"]`` (B, L). Counts are kept on
    the device and read once a window, so that the callback does not hold the device up at every step.

    Args:
        peak_flops: Highest operations a second of one device, at the precision of training; by default that of the
            vendor for known GPUs. Without it, as on a CPU, there is no MFU.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        if peak_flops is not None and not peak_flops > 0:
            raise ValueError(f"peak_flops must be above 0, got {peak_flops}")
        self.peak_flops = peak_flops
        self._peak: float | None = None
        self._peak_is_settled = False
        self._operation_count: OperationCount | None = None
        self._recording = ExitStack()
        self._samples = 0
        self._counts: Tensor | None = None
        self._logged_at = 0
        self._seconds = 0.0
        self._running_since: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._peak, self._peak_is_settled = self.peak_flops, self.peak_flops is not None
        self._reset(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the operations of the first step, and of others until one has pictures, if the model takes any."""
        backbone: Any = getattr(pl_module, "backbone", None)
        if backbone is not None and _is_news(self._operation_count, batch.inputs):
            self._operation_count = self._recording.enter_context(recording_operations(backbone))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The forward is done."""
        self._recording.close()
        if not self._peak_is_settled and self._operation_count is not None:
            self._settle_peak(pl_module.device, self._operation_count.dtype)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock while training waits for validation."""
        if self._running_since is not None:
            self._seconds += time.perf_counter() - self._running_since
            self._running_since = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on when training does."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._running_since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and log when the window is full."""
        self._recording.close()
        lengths = _lengths(batch).to(pl_module.device, non_blocking=True)
        counts = [lengths.sum().float()]
        if self._operation_count is not None:
            counts.append(self._operation_count.of(batch.inputs, lengths))
        found = torch.stack([count.to(pl_module.device) for count in counts])
        self._counts = found if self._counts is None else self._counts + found
        self._samples += len(batch.sample_ids)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step - self._logged_at >= every:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last window, however short."""
        if self._counts is not None:
            self._log(trainer, pl_module)
        self._running_since = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hooks behind."""
        self._recording.__exit__(type(exception), exception, exception.__traceback__)

    def _settle_peak(self, device: torch.device, dtype: torch.dtype | None) -> None:
        """Find the peak of the device in the type that matrices were multiplied in, whoever asked for that type."""
        self._peak_is_settled = True
        is_tf32 = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"  # has a peak of its own
        if device.type == "cuda" and dtype is not None and not is_tf32:
            self._peak = peak_operations(torch.cuda.get_device_name(device), dtype)
        if self._peak is None:
            logger.info(
                "throughput/mfu is not logged: the peak rate of %s is not known; give Throughput peak_flops",
                _device_name(device),
            )

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._running_since is not None:
            self._seconds += time.perf_counter() - self._running_since
        counts = torch.zeros(4, device=pl_module.device)
        counts[0] = self._samples
        if self._counts is not None:
            counts[1 : 1 + len(self._counts)] = self._counts
        waited = getattr(trainer.train_dataloader, "seconds_waited", None)
        counts[3] = (waited or 0.0) / self._seconds
        samples, tokens, operations, wait_shares = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        totals = {
            "throughput/samples_per_second": samples / self._seconds,
            "throughput/tokens_per_second": tokens / self._seconds,
        }
        devices = trainer.world_size
        scalars = totals | {f"{name}_per_device": rate / devices for name, rate in totals.items()}
        if operations:
            rate = operations / self._seconds / devices
            scalars["throughput/operations_per_second_per_device"] = rate
            if self._peak is not None:
                scalars["throughput/mfu"] = rate / self._peak
        if waited is not None:
            scalars["throughput/data_wait_share"] = wait_shares / devices
        log_scalars(trainer, scalars)
        self._reset(trainer)

    def _reset(self, trainer: Trainer) -> None:
        self._samples, self._counts, self._seconds, self._logged_at = 0, None, 0.0, trainer.global_step
        loader: Any = trainer.train_dataloader
        if hasattr(loader, "seconds_waited"):
            loader.seconds_waited = 0.0
        self._running_since = time.perf_counter()


def _lengths(batch: Any) -> Tensor:
    """(B,) tokens of each conversation."""
    lengths = getattr(batch, "lengths", None)
    return batch.inputs["attention_mask"].sum(1) if lengths is None else lengths


def _is_news(count: OperationCount | None, inputs: dict[str, Tensor]) -> bool:
    return count is None or ("pixel_values" in inputs and not count.vision_per_row)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"this {device.type}"
