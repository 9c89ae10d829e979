"""Callbacks that a test steers runs in other processes with, through files."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback


class Hold(Callback):
    """Stops before a batch of `fit` or `predict` until it may go on, so that a test finds the run in a known place.

    Args:
        folder: ``held-RANK`` appears in it when the run stands still; ``go`` lets it go on.
        batch: Number of the batch in the first epoch, from 0.
        ranks: Which ranks stop; the others run into their next collective and wait there.
    """

    def __init__(self, folder: str, batch: int, ranks: list[int]) -> None:
        self.folder, self.batch, self.ranks = Path(folder), batch, ranks

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.current_epoch:
            self._hold(trainer, batch_idx)

    def on_predict_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._hold(trainer, batch_idx)

    def _hold(self, trainer: Any, batch_idx: int) -> None:
        if batch_idx != self.batch or trainer.global_rank not in self.ranks:
            return
        (self.folder / f"held-{trainer.global_rank}").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.05)
