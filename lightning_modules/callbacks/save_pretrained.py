"""Export the trained model at the end of `fit`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.storage.files import atomic_folder
from lightning_modules.distributed.sharding import is_sharded


class SavePretrained(Callback):
    """Writes the module with its `save_pretrained` at the end of `fit`.

    Args:
        folder: Folder to write; it appears when it is complete.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder on rank zero; all ranks take part if weights are sharded."""
        if trainer.fast_dev_run or not (trainer.is_global_zero or is_sharded(pl_module)):  # type: ignore[attr-defined]
            return
        with atomic_folder(self.folder) if trainer.is_global_zero else nullcontext(self.folder) as folder:
            pl_module.save_pretrained(folder)  # type: ignore[operator]
