"""Ctrl-C in `fit` ends the run as SIGTERM does, after a checkpoint is saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Interrupt(Callback):
    """Takes the first Ctrl-C of a training for SIGTERM: the run ends after the batch that it is at, and saves.

    A second Ctrl-C ends it at once. Outside of the training, Ctrl-C does what it always does. Without a callback that
    saves at SIGTERM, such as :class:`lightning_modules.callbacks.run_checkpoints.RunCheckpoints`, nothing is saved.
    """

    def __init__(self) -> None:
        self.was_asked = False
        self._process = 0
        self._before: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take Ctrl-C over."""
        self.was_asked = False
        # A job in the background that ignores Ctrl-C goes on ignoring it.
        is_taken = self._before is not None or signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        if threading.current_thread() is threading.main_thread() and not is_taken:
            self._process = os.getpid()
            self._before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker of a dataloader; its parent tells it when to end
            return
        self.was_asked = True
        self._give_back()
        sys.stderr.write("\nCtrl-C: saving after this batch, then the run ends; press it again to end at once\n")
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler):
            handler(signal.SIGTERM, frame)

    def _give_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give Ctrl-C back."""
        self._give_back()
