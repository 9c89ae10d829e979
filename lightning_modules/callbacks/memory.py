"""Memory used by training. Lightning's DeviceStatsMonitor logs only that of rank zero."""

from __future__ import annotations

from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.callbacks.reporting import log_scalars
from lightning_modules.distributed.gathering import gather_rows

GIB = 2**30


class MemoryMonitor(Callback):
    """Logs memory in GiB: maximum (``_max``) and mean (``_mean``) over ranks.

    - ``memory/resident_gib``: current main memory of the process, without its DataLoader workers.
    - ``memory/allocated_gib``, ``memory/reserved_gib``: on CUDA, the peaks since the last log of the memory of tensors,
      and of the memory that torch holds. If reserved is far above allocated, memory is fragmented.
    - ``memory/allocation_retries``: on CUDA, how often all ranks together had to free cached memory to continue, since
      the start of the process. Each retry makes a step slow.

    It logs every ``trainer.log_every_n_steps`` optimizer steps, with one collective. The peak counters of the device
    are reset each time, so that a peak is logged for the window in which it occurred.
    """

    def __init__(self) -> None:
        self._logged_at = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the first window."""
        self._logged_at = trainer.global_step
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log if the window is full."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step - self._logged_at >= every:
            self._log(trainer, pl_module.device)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last window, which may be shorter."""
        if trainer.global_step > self._logged_at:
            self._log(trainer, pl_module.device)

    def _log(self, trainer: Trainer, device: torch.device) -> None:
        mine, retries = {"resident_gib": psutil.Process().memory_info().rss / GIB}, 0
        if device.type == "cuda":
            mine["allocated_gib"] = torch.cuda.max_memory_allocated(device) / GIB
            mine["reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
            retries = torch.cuda.memory_stats(device)["num_alloc_retries"]
            torch.cuda.reset_peak_memory_stats(device)
        ranks = gather_rows([(trainer.global_rank, mine, retries)], key=lambda row: row[0])
        scalars: dict[str, float] = {}
        for name in mine:
            values = [found[name] for _, found, _ in ranks]
            scalars |= {f"memory/{name}_max": max(values), f"memory/{name}_mean": sum(values) / len(values)}
        if device.type == "cuda":
            scalars["memory/allocation_retries"] = sum(retries for *_, retries in ranks)
        log_scalars(trainer, scalars)
        self._logged_at = trainer.global_step
