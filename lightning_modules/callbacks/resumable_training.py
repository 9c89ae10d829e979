"""What makes a run that goes on from a checkpoint the run that it would have been."""

from __future__ import annotations

from typing import Any

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from datamodules.batching.position import ResumableData, TrainingPosition
from datamodules.interfaces import data_module_of
from lightning_modules.checkpointing.folder_io import FolderCheckpointIO
from lightning_modules.checkpointing.optimizer_states import load_optimizer_state
from lightning_modules.checkpointing.random_states import random_states, seed_from, set_random_states

_RANDOM = "random_states"
_BATCHES, _EVALUATED = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"


class ResumableTraining(Callback):
    """Makes checkpoints complete and resuming exact; :class:`BackboneModule` brings it to every run.

    - Training draws its random numbers (dropout) from a stream of its own, which evaluations and data loaders between
      the batches do not touch; a checkpoint holds where it stands on each rank. With another number of ranks than
      before, and at the start of a run of several ranks, it is seeded from (seed, optimizer step, rank).
    - The place in the epoch is kept in samples, see :class:`datamodules.batching.position.TrainingPosition`.
    - A checkpoint made between two optimizer steps stands at the first of them: gradients are not saved, so the batches
      since are run again.
    - A checkpoint made before an evaluation has ended runs it when the run goes on; Lightning would leave it out.
    - States of optimizers are kept by the names of parameters.
    - Folders of :mod:`lightning_modules.checkpointing.folder` can be read whatever the strategy.
    """

    def __init__(self) -> None:
        self._now: dict[str, Any] | None = None  # where the stream of random numbers stands
        self._at_last_step: dict[str, Any] | None = None  # where it stood after the last optimizer step
        self._followed = -1  # batches in all after which it stood there
        self._saved: list[dict[str, Any]] | None = None  # of each rank, in the checkpoint that is resumed
        self._optimizers: list[dict[str, Any]] = []  # their states, likewise
        self._has_evaluated = True
        self._own_interval: int | float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Teach the strategy to read checkpoint folders."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = FolderCheckpointIO(lambda: trainer.state.fn == TrainerFn.FITTING)

    # ------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add random states, and let the checkpoint stand where it can be gone on from; called on all ranks."""
        if not isinstance(trainer.strategy, ModelParallelStrategy):  # which does so itself
            states = [get_optimizer_state_dict(pl_module, optimizer) for optimizer in trainer.optimizers]
            checkpoint["optimizer_states"] = states
        if trainer.state.fn != TrainerFn.FITTING:
            return
        loop = trainer.fit_loop.epoch_loop
        progress: Any = loop.batch_progress
        is_batch_end = progress.total.processed != progress.total.completed
        if is_batch_end:
            self._follow(trainer)
        undone = 0
        if progress.current.processed != trainer.num_training_batches and not progress.is_last_batch:
            undone = progress.current.processed % trainer.accumulate_grad_batches
        state = self._at_last_step if undone else self._now
        own = state or random_states(trainer.strategy.root_device)
        of_ranks: list[Any] = [own]
        if trainer.world_size > 1:
            of_ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(of_ranks, own)
        checkpoint[_RANDOM] = of_ranks
        loops = checkpoint["loops"]["fit_loop"]
        if undone:
            self._step_back(trainer, checkpoint, undone)
        elif self._has_to_evaluate(trainer, is_batch_end):
            finished = loops[_BATCHES]
            for part in ("total", "current"):
                finished[part]["completed"] = finished[part]["processed"]
            evaluated = loops[_EVALUATED]
            # The state in which Lightning goes back into an evaluation, at its first batch.
            done = evaluated["total"]["completed"]
            evaluated["total"] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
            evaluated["current"] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}

    def _has_to_evaluate(self, trainer: Trainer, is_batch_end: bool) -> bool:
        """Whether an evaluation is to come before the next batch."""
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        if trainer.validating:
            return not self._has_evaluated
        return is_batch_end and fetcher is not None and loop._should_check_val_fx(fetcher) and not loop.val_loop.skip

    def _step_back(self, trainer: Trainer, checkpoint: dict[str, Any], undone: int) -> None:
        position = _training_position(trainer)
        if position is not None:
            undone = position.step_back(undone)
            # Lightning stores the state of a data module by the name of its class.
            checkpoint[type(data_module_of(trainer)).__qualname__] |= position.state_dict(undone)
        progress = checkpoint["loops"]["fit_loop"][_BATCHES]
        progress["is_last_batch"] = False
        for part in ("total", "current"):
            done = progress[part]["processed"] - undone
            progress[part] = dict.fromkeys(progress[part], done)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what is needed when training begins."""
        self._saved = checkpoint.get(_RANDOM)
        if "optimizer_states" in checkpoint and not isinstance(trainer.strategy, ModelParallelStrategy):
            # Lightning would load them by places.
            self._optimizers, checkpoint["optimizer_states"] = checkpoint["optimizer_states"], []

    # --------------------------------------------------------------- training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the place in the epoch, and the random numbers to go on with."""
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
                # Due now, also where batches are counted otherwise than before.
                self._own_interval, trainer.val_check_batch = trainer.val_check_batch, count.ready
        self._at_last_step = self._now = self._stream(trainer)
        self._followed = loop.batch_progress.total.processed  # type: ignore[attr-defined]

    def _stream(self, trainer: Trainer) -> dict[str, Any] | None:
        """Where the stream of random numbers begins; None goes on with what is."""
        saved, self._saved = self._saved, None
        device = trainer.strategy.root_device
        if saved is not None and len(saved) == trainer.world_size:
            return saved[trainer.global_rank]
        if saved is None and trainer.world_size == 1:
            return None
        before = random_states(device)
        seed_from(trainer.global_step, trainer.global_rank)
        drawn = random_states(device)
        set_random_states(before, device)
        return drawn

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Go on with the stream of random numbers."""
        if self._now is not None:
            set_random_states(self._now, trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep where the stream stands."""
        self._follow(trainer)

    def _follow(self, trainer: Trainer) -> None:
        """Keep where the stream stands after a batch; once, since a callback before this one may save."""
        processed = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        if processed == self._followed:
            return
        self._followed = processed
        self._now = random_states(trainer.strategy.root_device)
        if not trainer.fit_loop._should_accumulate():
            self._at_last_step = self._now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a checkpoint is one before the end of an evaluation."""
        self._has_evaluated = trainer.sanity_checking
        if self._own_interval is not None and not trainer.sanity_checking:
            trainer.val_check_batch, self._own_interval = self._own_interval, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on it is one after it."""
        self._has_evaluated = True


def _training_position(trainer: Trainer) -> TrainingPosition | None:
    """Of the data module; None where there is none that keeps it."""
    data = data_module_of(trainer)
    return data.training_position if isinstance(data, ResumableData) else None
