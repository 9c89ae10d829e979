"""Export the trained model at the end of `fit`."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.storage.files import atomic_folder, given_path, require_writable_folder
from lightning_modules.callbacks.reporting import output_folder
from lightning_modules.distributed.sharding import is_sharded
from lightning_modules.export.pretrained_folder import require_replaceable

logger = logging.getLogger(__name__)

EMERGENCY = "emergency_model"
"""Folder beside the logs for a model that cannot be written where it should be."""


class SavePretrained(Callback):
    """Writes the module with its `save_pretrained` at the end of `fit`.

    The folder is tried before the first step. If it cannot be written at the end, as on a disk that has filled up, the
    model is written to the folder ``emergency_model`` beside the logs of the run, or if that is full, to the folder
    of the system for temporary files. `fit` then ends with the error, which says where the model is.

    Args:
        folder: Folder to write; it appears when it is complete. A model that is there is replaced then; a folder that
            holds something else, or the model to begin with, is refused.
    """

    def __init__(self, folder: str) -> None:
        self.folder = given_path(folder, "folder")
        self._logs: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Try the folder, on rank zero, and say if a model there is to be replaced.

        Raises:
            OSError: If it cannot be written, or holds something else than a model, or the model to begin with.
        """
        logs = output_folder(trainer, None)  # all ranks ask for it together
        if stage == "fit" and trainer.is_global_zero and logs is not None:
            self._require_folder(pl_module)
            self._logs = logs

    def _require_folder(self, module: LightningModule) -> None:
        require_writable_folder(self.folder)
        base = module.hparams.get("model_name_or_path")
        if base and Path(base).resolve() == self.folder.resolve():
            raise FileExistsError(f"{self.folder}: is the model that the training begins with; give another folder")
        if require_replaceable(self.folder):
            logger.warning("%s: holds a model, which the one of this run replaces at its end", self.folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder on rank zero; all ranks take part if weights are sharded.

        Raises:
            OSError: If it cannot be written; a note says where the model is instead.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # Gathered once: the other ranks do not take part in a second attempt.
        whole: Any = pl_module.unsharded() if is_sharded(pl_module) else pl_module  # type: ignore[operator]
        if not trainer.is_global_zero:
            return
        try:
            with atomic_folder(self.folder) as folder:
                whole.save_pretrained(folder)
        except Exception as error:
            self._save_elsewhere(whole, error)
            raise

    def _save_elsewhere(self, whole: Any, error: Exception) -> None:
        """Keep the model of a run that may have no other copy of it, and note in the error where."""
        if self._logs is None:
            return
        temporary = Path(tempfile.gettempdir()) / f"visualprm_{EMERGENCY}_{os.getpid()}"
        for place in (self._logs / EMERGENCY, temporary):
            try:
                with atomic_folder(place) as folder:
                    whole.save_pretrained(folder)
            except Exception as second:  # noqa: BLE001 - the first error is the one to raise
                error.add_note(f"it could not be written to {place} either: {second}")
            else:
                error.add_note(f"the trained model is in {place}; move it to {self.folder}")
                return
