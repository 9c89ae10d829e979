"""Puts a training job of SLURM back into the queue when its time ends or it is preempted."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment

log = logging.getLogger(__name__)


class Requeue(Callback):
    """Saves a checkpoint and requeues the job at the next optimizer step after SLURM's signal.

    It takes the place of the handler that Lightning's SLURMEnvironment installs when `auto_requeue` is on (the default),
    with its signal (SIGUSR1, by `sbatch --signal=USR1@SECONDS`) and its checkpoint names: `hpc_ckpt_N.ckpt` in
    `trainer.default_root_dir`. Lightning's own saves inside of the signal handler, where another rank may wait in a
    collective for this one, and half of the weights may have been updated. Here all ranks agree on a step first. The
    checkpoint takes its name once it is whole, and the one of an earlier requeue is removed then.

    A signal during an evaluation requeues at once: what comes back goes on from the checkpoint before.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self._is_done = False
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal over from Lightning."""
        environment = getattr(trainer.strategy, "cluster_environment", None) or SLURMEnvironment.detect()
        if environment is True:  # one device: its strategy knows no environment
            environment = SLURMEnvironment()
        self._is_active = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        self._step = trainer.global_step
        if self._is_active:
            signal.signal(environment.requeue_signal, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._is_asked = True

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        """Save and requeue after an optimizer step, if any rank was asked to."""
        if not self._is_active or self._is_done or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if trainer.strategy.reduce_boolean_decision(self._is_asked, all=False):
            self._is_done = True
            self._save(trainer)
            if trainer.is_global_zero:
                _requeue()

    def on_validation_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        """Requeue at once: the end of a long evaluation may come too late."""
        if self._is_asked and not self._is_done and not trainer.sanity_checking:
            self._is_done = True
            if trainer.is_global_zero:
                _requeue()

    def _save(self, trainer: Trainer) -> None:
        root = Path(trainer.default_root_dir)
        path = Path(trainer.strategy.broadcast(trainer._checkpoint_connector.hpc_save_path(root)))
        partial = path.with_name(f".saving-{path.name}")
        if trainer.is_global_zero:
            _remove(partial)
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            earlier = set(root.glob("hpc_ckpt_*.ckpt"))
            partial.rename(path)
            for old in earlier:
                _remove(old)
            log.info("saved %s", path)
        trainer.strategy.barrier("Requeue")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _requeue() -> None:
    job = os.environ["SLURM_JOB_ID"]
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("job %s was not requeued: %s; submit it again, it goes on from its checkpoint", job, error)
        return
    if done.returncode:
        log.error(
            "job %s was not requeued: scontrol says %r; submit it again, it goes on from its checkpoint",
            job,
            done.stderr.strip(),
        )
    else:
        log.warning("requeued job %s", job)
