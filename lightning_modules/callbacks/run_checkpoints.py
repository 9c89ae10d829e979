"""When the checkpoints of a run are written, and how the run finds its own again.

Lightning's ModelCheckpoint saves after an evaluation, not before it, and may leave half of one when it is killed.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.batching.ranks import same_on_all_ranks
from datamodules.storage.fields import first_of
from datamodules.storage.files import given_path
from lightning_modules.checkpointing.folder import remove_leftovers, rewrite_rest
from lightning_modules.checkpointing.kept_checkpoints import BEST, LATEST, KeptCheckpoints, Mode, name_of, step_of
from lightning_modules.checkpointing.run_lock import RunLock
from lightning_modules.distributed.fully_sharded import FullyShardedStrategy

logger = logging.getLogger(__name__)


class RunCheckpoints(Checkpoint):
    """Keeps the last and the best checkpoints of a run, in a folder of this run alone.

    Each checkpoint is a folder such as ``step_00001200`` (see :mod:`lightning_modules.checkpointing.folder`).
    ``latest`` and ``best`` are symbolic links to complete checkpoints, also after a kill at any moment. Half-written
    checkpoints of a killed run are removed at the next start.

    Checkpoints are written before every evaluation, at the end of every epoch and of training, on SIGTERM, and as often
    as the arguments say. A run that resumes from a checkpoint before an evaluation runs the evaluation. After the
    evaluation its scores are added to the checkpoint.

    Args:
        folder: Folder for the checkpoints of this run alone.
        every_n_steps: Optimizer steps between two checkpoints.
        every_n_minutes: Minutes between two checkpoints, by the clock of rank zero.
        keep_last: How many of the last checkpoints are kept.
        monitor: Name of a metric that evaluations log, such as ``best_of_n/overall`` or ``process_bench/macro_f1``;
            None keeps no best checkpoint.
        mode: Whether more or less of the metric is better.
        keep_best: How many of the best checkpoints are kept.
        resume: Resume `visualprm fit` without ``--ckpt_path`` from ``latest`` if there is one, so that the same command
            starts and resumes a run. If False, checkpoints of an earlier run in the folder are an error.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        folder: str,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        keep_last: int = 2,
        monitor: str | None = None,
        mode: Mode = "max",
        keep_best: int = 1,
        resume: bool = True,
    ) -> None:
        for name, value, least in (
            ("every_n_steps", every_n_steps, 1),
            ("every_n_minutes", every_n_minutes, 0),
            ("keep_last", keep_last, 1),
            ("keep_best", keep_best, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
        self.folder = given_path(folder, "folder")
        # Without a metric there are no scores, and so no best ones.
        self.kept = KeptCheckpoints(self.folder, keep_last, keep_best, mode)
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.monitor = monitor
        self.resume = resume
        self._last_step = 0
        self._last_time = time.monotonic()
        self._lock = RunLock(self.folder)

    # ------------------------------------------------------------------- find

    @property
    def best_model_path(self) -> str:
        """The best checkpoint, else the latest one, else an empty text; Lightning reads this property."""
        found = self.kept.linked(BEST) or self.kept.linked(LATEST)
        return "" if found is None else str(found)

    def named_checkpoint(self, name: str) -> Path | None:
        """The checkpoint that ``latest`` or ``best`` points to; None if there is none.

        If a run was killed before it made the link ``latest``, the checkpoint of the last step is returned for it.

        Raises:
            ValueError: If there are checkpoints, but none by that name.
        """
        linked, found = self.kept.linked(name), self.kept.names
        if linked is not None:
            return linked
        if found and name == LATEST:
            return (self.folder / found[-1]).resolve()
        if found:
            raise ValueError(
                f"{self.folder} holds {len(found)} checkpoints ({first_of(found)}), but {name!r} points to none of "
                f"them; give one with --ckpt_path"
            )
        return None

    # ------------------------------------------------------------------ start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lock the folder, and remove leftovers of killed runs.

        Raises:
            TypeError: If the strategy is another ModelParallelStrategy than FullyShardedStrategy.
            RuntimeError: If another run writes to the folder.
        """
        if isinstance(trainer.strategy, ModelParallelStrategy) and not isinstance(
            trainer.strategy, FullyShardedStrategy
        ):
            raise TypeError(
                "RunCheckpoints: ModelParallelStrategy writes checkpoints that a kill may leave half written; take "
                "lightning_modules.distributed.fully_sharded.FullyShardedStrategy (experiments/strategies/fsdp2.yaml)"
            )
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.keep_others_out()
            for path in remove_leftovers(self.folder):
                logger.warning("removed %s, which a run that was killed has left", path)

    def keep_others_out(self) -> None:
        """Take the lock of the folder; rank zero does so before it looks for the checkpoint to go on from.

        Raises:
            RuntimeError: If another run writes to the folder.
        """
        self._lock.take()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the folder has checkpoints of this run only.

        Raises:
            FileExistsError: If it holds checkpoints of another run.
        """
        self._last_step, self._last_time = 0, time.monotonic()
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        origin = Path(trainer.ckpt_path).resolve() if trainer.ckpt_path else None
        same_on_all_ranks(str(origin), "checkpoint to go on from")
        existing = self.kept.names
        same_on_all_ranks(" ".join(existing), f"checkpoints in {self.folder}")
        is_own = origin is not None and self.kept.holds(origin)
        if existing and not is_own:
            raise FileExistsError(
                f"{self.folder} holds checkpoints of another run ({first_of(existing)}), and this run begins "
                f"{'with ' + str(origin) if origin else 'anew'}; give it a folder of its own, or go on with "
                f"--ckpt_path {self.folder / LATEST}"
            )
        if is_own and origin is not None:
            self._last_step = step_of(origin.name)
            if trainer.is_global_zero:
                self.kept.point(LATEST, origin.name)
                self.kept.set_aside_later_than(origin.name)
                self.kept.point_to_best()

    # ------------------------------------------------------------------- save

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a checkpoint is due, unless an evaluation follows: a checkpoint is written before that anyway."""
        loop = trainer.fit_loop.epoch_loop
        if trainer.fast_dev_run or loop._should_accumulate():  # type: ignore[attr-defined]
            return
        step = trainer.global_step
        is_due = (
            loop.batch_progress.is_last_batch
            or trainer.should_stop
            or (trainer.max_steps != -1 and step >= trainer.max_steps)
            or (self.every_n_steps is not None and step % self.every_n_steps == 0)
        )
        if self.every_n_minutes is not None:
            is_time = time.monotonic() - self._last_time >= 60 * self.every_n_minutes
            is_due = bool(trainer.strategy.broadcast(is_time)) or is_due
        fetcher: Any = trainer.fit_loop._data_fetcher
        if is_due and (loop.val_loop.skip or not loop._should_check_val_fx(fetcher)):
            self.save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before an evaluation, which may take a long time."""
        if self._is_part_of_training(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the scores of the evaluation to the checkpoint.

        Raises:
            ValueError: If the evaluation has not logged the metric ``monitor``.
        """
        if not self._is_part_of_training(trainer) or not trainer.global_step:
            return
        path = self.folder / name_of(trainer.global_step)
        if self.monitor is not None:
            value = trainer.callback_metrics.get(self.monitor)
            if value is None:
                raise ValueError(
                    f"RunCheckpoints: the evaluation has logged no {self.monitor!r} (monitor), but "
                    f"{sorted(trainer.callback_metrics)}; name one of these"
                )
            if math.isfinite(float(value)):
                self.kept.scores[path.name] = float(value)
            else:
                logger.warning("%s is %s: %s takes no part in the choice of the best", self.monitor, value, path.name)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if trainer.is_global_zero:
            rewrite_rest(path, checkpoint)
            self.kept.point_to_best()
            self.kept.prune(trainer.global_step)
        trainer.strategy.barrier("RunCheckpoints")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save on SIGTERM, which a preempted job gets."""
        if isinstance(exception, SIGTERMException) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save(trainer)
        self._lock.release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unlock the folder."""
        self._lock.release()

    def _is_part_of_training(self, trainer: Trainer) -> bool:
        return trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run  # type: ignore[attr-defined]

    def save(self, trainer: Trainer) -> None:
        """Save the state after the current optimizer step, once; all ranks call it together."""
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        trainer.save_checkpoint(self.folder / name_of(step), weights_only=False)
        self._last_time = time.monotonic()
        if trainer.is_global_zero:
            self.take_up(step)

    def take_up(self, step: int) -> None:
        """Point ``latest`` to a written checkpoint, and remove checkpoints that are not kept."""
        self.kept.point(LATEST, name_of(step))
        self.kept.prune(step)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Scores of the checkpoints that are kept."""
        return {"monitor": self.monitor, "scores": dict(self.kept.scores)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the scores of the checkpoint, if they are of the same metric."""
        if state_dict["monitor"] == self.monitor:
            self.kept.scores = dict(state_dict["scores"])


def checkpoint_to_load(trainer: Trainer, is_fit: bool, given: str | None) -> str | None:
    """The path that ``--ckpt_path`` stands for.

    For `fit`, rank zero takes the lock of the folder first, so that no other run saves or removes what is found. Other
    ranks get the link: they follow it when they load, once rank zero has found the checkpoint.

    Args:
        trainer: Its callbacks may know checkpoints.
        is_fit: Whether it is for `fit`, which goes on by itself.
        given: A path, ``latest`` (also ``last``), ``best``, or nothing.

    Raises:
        ValueError: If there is no such checkpoint and it was asked for by `test` or `validate`, or no
            :class:`RunCheckpoints` is configured that would know it.
        RuntimeError: If another run writes to the folder.
    """
    keeper = next((each for each in trainer.callbacks if isinstance(each, RunCheckpoints)), None)  # type: ignore[attr-defined]
    writes = is_fit and not trainer.fast_dev_run  # type: ignore[attr-defined]
    goes_on = writes and keeper is not None and keeper.resume
    if keeper is not None and writes and trainer.is_global_zero:
        keeper.keep_others_out()
    if keeper is None or given not in (None, LATEST, "last", BEST) or (given is None and not goes_on):
        return given
    name = BEST if given == BEST else LATEST
    found = keeper.named_checkpoint(name)
    if found is not None and writes and not trainer.is_global_zero and (keeper.folder / name).exists():
        return str(keeper.folder / name)
    if found is None and given is not None and not is_fit:
        raise ValueError(f"--ckpt_path {given}: there is no checkpoint in {keeper.folder}")
    if found is not None and given is None:
        logger.warning("the run goes on from %s; `resume: false` or another folder begins a new one", found)
    return str(found) if found is not None else None
