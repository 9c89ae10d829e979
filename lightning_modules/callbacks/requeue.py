"""Lets all ranks save at one step when a run is told to end, and puts a job of SLURM back into the queue.

Lightning's own handlers save inside of the signal handler, where ranks may stand at different places.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

log = logging.getLogger(__name__)


class Requeue(Callback):
    """Saves a checkpoint at the next optimizer step after SLURM's signal, and requeues the job.

    It takes the place of the handlers that Lightning installs for its SLURMEnvironment when `auto_requeue` is on (the
    default), with their signal (SIGUSR1, by `sbatch --signal=USR1@SECONDS`). All ranks agree on a step first: inside of
    a handler another rank may wait in a collective for this one, and half of the weights may have been updated. It does
    the same for SIGTERM in every run of several processes, whoever has started them.

    A checkpoint callback of the run that can be asked to (`save`) saves among the run's other checkpoints. Without one
    it is Lightning's `hpc_ckpt_N.ckpt` in `trainer.default_root_dir`, from which `fit` goes on by itself under SLURM.

    SIGTERM is what a preempted job gets, to be requeued by SLURM itself: it saves, too, and ends the run, whichever
    ranks it has reached. A SIGUSR1 during an evaluation requeues at once: what comes back goes on from the checkpoint
    before.
    """

    def __init__(self) -> None:
        self._signals: set[int] = set()
        self._asked: set[int] = set()
        self._is_requeued = False
        self._step = 0
        self._signal = signal.SIGUSR1

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which has just installed its handlers."""
        self._take_over(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning."""
        self._step = trainer.global_step
        self._take_over(trainer)

    def _take_over(self, trainer: Trainer) -> None:
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._signal = environment.requeue_signal or self._signal
            self._signals = {self._signal, signal.SIGTERM}
        elif trainer.world_size > 1:
            self._signals = {signal.SIGTERM}
        for number in self._signals:
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked.add(number)

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        """After an optimizer step: save and requeue if any rank was asked to.

        Raises:
            SIGTERMException: After saving, where SIGTERM came.
        """
        if not self._signals or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        # One exchange about everything: what ranks know apart must not decide who takes part in the next one.
        mine = [self._signal in self._asked, signal.SIGTERM in self._asked, self._is_requeued]
        found = torch.tensor(mine, dtype=torch.float32, device=trainer.strategy.root_device)
        must_requeue, must_end, is_requeued = (trainer.strategy.reduce(found, reduce_op="sum") > 0).tolist()
        must_requeue &= not is_requeued
        if must_requeue or must_end:
            self._save(trainer)
        if must_requeue:
            self._requeue(trainer)
        if must_end:
            raise SIGTERMException("this run was told to end (SIGTERM); a checkpoint is saved")

    def on_validation_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        """Requeue at once: the end of a long evaluation may come too late."""
        if trainer.is_global_zero and self._signal in self._asked and not trainer.sanity_checking:
            self._requeue(trainer)

    def _requeue(self, trainer: Trainer) -> None:
        if not self._is_requeued and trainer.is_global_zero:
            requeue_job()
        self._is_requeued = True

    def _save(self, trainer: Trainer) -> None:
        savers = [callback for callback in trainer.checkpoint_callbacks if hasattr(callback, "save")]
        for callback in savers:
            callback.save(trainer)
        if not savers:
            folder = trainer.default_root_dir
            trainer.save_checkpoint(trainer.strategy.broadcast(trainer._checkpoint_connector.hpc_save_path(folder)))


def requeue_job() -> None:
    """Ask SLURM to requeue this job; a refusal is logged, and the run goes on while it may."""
    job = os.environ["SLURM_JOB_ID"]
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    command = ["scontrol", "requeue", job]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - our own job
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or "").strip()
        log.error("job %s was not requeued: %s %s; submit it again, it goes on from its checkpoint", job, error, said)
    else:
        log.warning("requeued job %s", job)
