"""On a signal, all ranks save at the same optimizer step, and a SLURM job is requeued.

Lightning's own handlers save inside the signal handler, when ranks may be at different points.
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

    It replaces the handlers that Lightning installs if `auto_requeue` of its SLURMEnvironment is on (the default), and
    uses their signal (SIGUSR1, from `sbatch --signal=USR1@SECONDS`). All ranks first agree on a step. Inside a handler,
    another rank may be waiting in a collective, and half of the weights may have been updated.

    SIGTERM is handled in every run of several ranks, with and without SLURM. A preempted job gets it, and SLURM
    requeues the job by itself. All ranks save and end the run, if it reaches any of them.

    If a checkpoint callback of the run has a method `save`, that writes the checkpoint. Otherwise it is Lightning's
    `hpc_ckpt_N.ckpt` in `trainer.default_root_dir`, from which `fit` resumes by itself under SLURM.

    A SIGUSR1 during an evaluation requeues the job at once. It then resumes from the checkpoint before the evaluation.
    """

    def __init__(self) -> None:
        self._signals: set[int] = set()
        self._asked: set[int] = set()
        self._is_requeued = False
        self._step = 0
        self._signal = signal.SIGUSR1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the handlers that Lightning has just installed."""
        self._step = trainer.global_step
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._signal = environment.requeue_signal or self._signal
            self._signals = {self._signal, signal.SIGTERM}
        elif trainer.world_size > 1:
            self._signals = {signal.SIGTERM}
        for number in self._signals:
            signal.signal(number, self._ask)

    on_sanity_check_start = on_train_start

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked.add(number)

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        """After an optimizer step, save and requeue if any rank has received a signal.

        Raises:
            SIGTERMException: On all ranks, after saving, if the signal was SIGTERM.
        """
        if not self._signals or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        # One collective for everything: ranks that know different things must not disagree on the next collective.
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
        """Requeue at once, because a long evaluation may end too late."""
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
    """Ask SLURM to requeue this job; if it refuses, that is logged, and the run continues."""
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
