"""Export of the trained model when fitting ends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


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
        partial = self.folder.with_name(f"{self.folder.name}.partial-{os.getpid()}")
        pl_module.save_pretrained(partial)  # type: ignore[operator]
        if self.folder.exists():
            shutil.rmtree(self.folder)
        partial.rename(self.folder)
