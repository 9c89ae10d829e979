"""The file that says what a run was configured to do."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from datamodules.storage.files import atomic_write_text


class SavedConfiguration(SaveConfigCallback):
    """Writes all settings to ``config.yaml`` in the folder of the logger, or else of the run; in place of an older one.

    The file is there as a whole or not at all.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it, once.

        Raises:
            OSError: If it cannot be written; names the file.
        """
        if self.already_saved:
            return
        folder = trainer.log_dir  # asks all ranks
        assert folder is not None
        if trainer.is_global_zero:
            atomic_write_text(Path(folder, self.config_filename), self.parser.dump(self.config, skip_none=False))
        self.already_saved = True
