"""A resumed run continues exactly as the uninterrupted run would have."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from datamodules.batching.position import ResumableData, TrainingPosition
from datamodules.interfaces import data_module_of
from lightning_modules.checkpointing.folder_io import FolderCheckpointIO
from lightning_modules.checkpointing.optimizer_states import load_optimizer_state

_BATCHES, _EVALUATED = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"


class ResumableTraining(Callback):
    """Makes checkpoints complete and resuming exact; :class:`BackboneModule` adds it to every run.

    - The random numbers of a training batch (dropout) depend on the seed of the run, the number of the batch in the run
      and the rank only, see :func:`seed_batch`. So a checkpoint holds no random states.
    - The position in the epoch is counted in samples, see :class:`datamodules.batching.position.TrainingPosition`.
    - A checkpoint that is saved between two optimizer steps resumes at the first of them. Gradients are not saved, so
      the micro-batches after that step are run again.
    - A checkpoint that is saved before the end of an evaluation runs the evaluation again. Lightning would skip it.
    - Optimizer states are stored and loaded by parameter name.
    - Folders of :mod:`lightning_modules.checkpointing.folder` can be read with every strategy.
    """

    def __init__(self) -> None:
        self._optimizers: list[dict[str, Any]] = []  # states of the checkpoint that the run resumes from
        self._has_evaluated = True
        self._own_interval: int | float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the strategy read checkpoint folders."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = FolderCheckpointIO(lambda: trainer.state.fn == TrainerFn.FITTING)

    # ------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Name the optimizer states, and set the progress to a place from which a run can resume."""
        if not isinstance(trainer.strategy, ModelParallelStrategy):  # which does so itself
            states = [get_optimizer_state_dict(pl_module, optimizer) for optimizer in trainer.optimizers]
            checkpoint["optimizer_states"] = states
        if trainer.state.fn != TrainerFn.FITTING:
            return
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        undone = 0
        if progress.current.processed != trainer.num_training_batches and not progress.is_last_batch:
            undone = progress.current.processed % trainer.accumulate_grad_batches
        if undone:
            self._step_back(trainer, checkpoint, undone)
        elif self._has_to_evaluate(trainer):
            loops = checkpoint["loops"]["fit_loop"]
            finished = loops[_BATCHES]
            for part in ("total", "current"):
                finished[part]["completed"] = finished[part]["processed"]
            evaluated = loops[_EVALUATED]
            # From this state Lightning resumes inside the evaluation, at its first batch.
            done = evaluated["total"]["completed"]
            evaluated["total"] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
            evaluated["current"] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}

    def _has_to_evaluate(self, trainer: Trainer) -> bool:
        """Whether an evaluation comes before the next training batch."""
        if trainer.validating:
            return not self._has_evaluated
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        total: Any = loop.batch_progress.total
        is_batch_end = total.processed != total.completed
        return is_batch_end and fetcher is not None and loop._should_check_val_fx(fetcher) and not loop.val_loop.skip

    def _step_back(self, trainer: Trainer, checkpoint: dict[str, Any], undone: int) -> None:
        position = _training_position(trainer)
        if position is not None:
            undone = position.step_back(undone)
            # Lightning stores the state of a data module under the name of its class.
            checkpoint[type(data_module_of(trainer)).__qualname__] |= position.state_dict(undone)
        progress = checkpoint["loops"]["fit_loop"][_BATCHES]
        progress["is_last_batch"] = False
        for part in ("total", "current"):
            done = progress[part]["processed"] - undone
            progress[part] = dict.fromkeys(progress[part], done)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the optimizer states until the optimizers exist."""
        if "optimizer_states" in checkpoint and not isinstance(trainer.strategy, ModelParallelStrategy):
            # Lightning would load them by their order.
            self._optimizers, checkpoint["optimizer_states"] = checkpoint["optimizer_states"], []

    # --------------------------------------------------------------- training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the optimizer states and find the position in the epoch."""
        for state, optimizer in zip(self._optimizers, trainer.optimizers, strict=False):
            load_optimizer_state(str(trainer.ckpt_path), state, pl_module, optimizer)
        self._optimizers = []
        loop = trainer.fit_loop.epoch_loop
        position = _training_position(trainer)
        batches = position.resume() if position is not None else None
        if batches is not None:
            current: Any = loop.batch_progress.current
            batches = min(batches, int(trainer.num_training_batches))
            current.ready = current.started = current.processed = batches
            current.completed = batches - 1 if loop.restarted_on_train_batch_end else batches
        if loop.val_loop.restarted_mid_evaluation:
            total: Any = loop.val_loop.batch_progress.total
            total.ready = total.started = total.completed
            count = (
                loop.batch_progress.total if trainer.check_val_every_n_epoch is None else loop.batch_progress.current
            )
            if trainer.val_check_batch not in (None, float("inf")) and count.ready:
                # The evaluation is due now, even if batches are counted differently than in the interrupted run.
                self._own_interval, trainer.val_check_batch = trainer.val_check_batch, count.ready

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the random numbers of the batch."""
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        seed_batch(progress.total.processed, trainer.global_rank)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that an evaluation has begun."""
        self._has_evaluated = trainer.sanity_checking
        if self._own_interval is not None and not trainer.sanity_checking:
            trainer.val_check_batch, self._own_interval = self._own_interval, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the evaluation has ended."""
        self._has_evaluated = True


def seed_batch(number: int, rank: int) -> None:
    """Seed python, numpy, torch and CUDA from the seed of the run (`seed_everything`), a batch and a rank.

    Args:
        number: Training micro-batches that every rank has processed before, in all epochs.
        rank: Global rank of this process.
    """
    sequence = np.random.SeedSequence([int(os.environ.get("PL_GLOBAL_SEED", "0")), number, rank])
    for_python, for_numpy, for_torch = sequence.generate_state(3)
    random.seed(int(for_python))
    np.random.seed(int(for_numpy))
    torch.manual_seed(int(for_torch))  # CUDA included


def _training_position(trainer: Trainer) -> TrainingPosition | None:
    """The training position of the data module; None if it keeps none."""
    data = data_module_of(trainer)
    return data.training_position if isinstance(data, ResumableData) else None
