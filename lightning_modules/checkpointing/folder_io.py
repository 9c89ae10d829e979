"""Checkpoint folders for strategies that do not shard (single device, DDP)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_modules.checkpointing.folder import write_folder
from lightning_modules.checkpointing.reading import read_folder


class FolderCheckpointIO(TorchCheckpointIO):
    """Reads folders and files; writes folders, or a file if the name ends in ``.ckpt``.

    Args:
        needs_optimizers: Whether optimizer states are needed; called when a folder is read.
    """

    def __init__(self, needs_optimizers: Callable[[], bool]) -> None:
        self.needs_optimizers = needs_optimizers

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; called on rank zero."""
        if Path(path).suffix == ".ckpt":
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_folder(Path(path), checkpoint, together=False)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; called on every rank."""
        if Path(path).is_dir():
            return read_folder(Path(path), with_optimizers=self.needs_optimizers())
        # With None, Lightning would unpickle any object of a file from a URL.
        return super().load_checkpoint(path, map_location, True if weights_only is None else weights_only)
