"""Export of the trained model when fitting ends."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.files import atomic_folder


class SavePretrained(Callback):
    """Writes the module with its `save_pretrained` when `fit` ends.

    Args:
        folder: Where to. It is written under another name first and renamed, so that it is whole or absent.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder, on rank zero."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        with atomic_folder(self.folder) as folder:
            pl_module.save_pretrained(folder)  # type: ignore[operator]
