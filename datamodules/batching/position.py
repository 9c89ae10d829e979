"""Where training stands in the order of an epoch, counted over all processes, so that any number of them goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)

_MAY_CHANGE = ("ranks", "batch_size")


@dataclass(frozen=True)
class EpochStart:
    """Where the iteration over an epoch begins.

    Attributes:
        done: Items of the epoch's order that all processes together have taken already: rows, or packed batches.
        made_for: What the order was made for where it depends on that: rows of a batch of all processes where batches
            are grouped by length, processes where they are packed. None is what the run has now.
    """

    done: int = 0
    made_for: int | None = None


class EpochSampler(Protocol):
    """A sampler whose order may be entered anywhere."""

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch."""

    def batches_left(self, start: EpochStart) -> int:
        """Batches of this process from there to the end of the epoch."""

    @property
    def batches_of_epoch(self) -> int:
        """Batches of this process in a whole epoch."""


class TrainingPosition:
    """Follows training through the epochs, for its checkpoints and for its samplers.

    A checkpoint keeps how many rows (or packed batches) of the epoch's order are done, of all processes together. So a
    run that resumes inside of an epoch with other processes or batches still sees each of the others once; in a padded
    order exactly the next ones, in a grouped or packed one too, since for the rest of that epoch it is laid out as it
    was begun.

    Args:
        order: What the order depends on now: ``ranks``, ``batch_size``, ``layout`` (padded, grouped or packed), and
            whatever must not change inside of an epoch, such as ``seed``.
    """

    def __init__(self, order: Callable[[], Mapping[str, Any]]) -> None:
        self._order = order
        self._epoch = -1
        self._resumed: Mapping[str, Any] | None = None
        self._begun: tuple[int, int, EpochStart] | None = None  # epoch, batches that Lightning counts there, start
        self.sampler: EpochSampler | None = None
        self.trainer: Trainer | None = None

    # ------------------------------------------------------------ checkpoints

    def state_dict(self, undone: int = 0) -> dict[str, Any]:
        """The order, and what of it is done, but for the last ``undone`` batches."""
        order = dict(self._order())
        state: dict[str, Any] = {"order": order}
        if self.trainer is not None and self.trainer.state.fn == "fit":
            batches = self._processed() - undone
            start, begun = self._start(self._epoch), self._batches_before()
            state["position"] = {
                "epoch": self._epoch,
                "batches": batches,
                "done": start.done + (batches - begun) * _unit(order),
                "made_for": start.made_for or _made_for(order),
            }
        return state

    def step_back(self, batches: int) -> int:
        """How many of the last batches can be taken back: none of those before this run has begun to train."""
        return min(batches, self._processed() - self._batches_before())

    def _processed(self) -> int:
        assert self.trainer is not None
        current: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(current.processed)

    def _batches_before(self) -> int:
        """Batches of the current epoch that Lightning counts and this run has not trained on itself."""
        return self._begun[1] if self._begun is not None and self._begun[0] == self._epoch else 0

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember where the checkpoint stood; used when the epoch goes on."""
        self._resumed = state

    def follow(self, sampler: EpochSampler, trainer: Trainer | None) -> None:
        """Take the sampler of the training dataloader, and the trainer whose progress counts its batches."""
        self.sampler, self.trainer = sampler, trainer

    # ---------------------------------------------------------------- resume

    def resume(self) -> int | None:
        """Find the place to go on at, once Lightning has restored its progress.

        Returns:
            How many batches of the epoch Lightning must take for done, if other than it does: the processes or the
            size of batches have changed.

        Raises:
            ValueError: If the order is not that of the checkpoint.
        """
        if self._resumed is None or self.trainer is None:
            return None
        state, self._resumed = self._resumed, None
        loop = self.trainer.fit_loop
        progress: Any = loop.epoch_progress.current
        epoch, batches = int(progress.processed), self._processed()
        before, now = state["order"], dict(self._order())
        position = state.get("position") or {
            "epoch": epoch,
            "batches": batches,
            "done": batches * _unit({"layout": now.get("layout"), **before}),
            "made_for": _made_for({"layout": now.get("layout"), **before}),
        }
        if not batches or position["epoch"] != epoch:
            return None
        fixed = {name: value for name, value in before.items() if name not in _MAY_CHANGE}
        if fixed != {name: now.get(name) for name in fixed}:
            raise ValueError(
                f"the checkpoint stands inside of an epoch of {before}, but this run has {now}; resume with the same "
                f"data and settings (ranks and batch_size may change), or from a checkpoint at the end of an epoch"
            )
        start = EpochStart(position["done"], position["made_for"])
        if _unit({"layout": now.get("layout"), **before}) == _unit(now) and start.made_for == _made_for(now):
            self._begun = (epoch, position["batches"], start)
            return None
        assert self.sampler is not None
        self.sampler.set_epoch(epoch)
        whole = self.sampler.batches_of_epoch
        left = 0 if loop.epoch_loop.batch_progress.is_last_batch else self.sampler.batches_left(start)
        if left > whole:
            raise ValueError(
                f"the checkpoint stands at {start.done} of an epoch of {before}; {left} batches of this run's are "
                f"left of it, but a whole epoch has {whole}; resume with the number of processes of the checkpoint"
            )
        logger.info("epoch %d goes on after %d of its order: %d of %d batches are left", epoch, start.done, left, whole)
        self._begun = (epoch, whole - left, start)
        return whole - left

    def start(self, epoch: int) -> EpochStart:
        """Where the iteration over an epoch begins; samplers ask when they begin.

        Raises:
            ValueError: If a run resumes with other processes or batches and nothing has told Lightning so.
        """
        if self.trainer is None or not self.trainer.training:
            return EpochStart()
        if self._resumed is not None:
            before = self._resumed["order"]
            if self.resume() is not None:
                raise ValueError(
                    f"the checkpoint stands inside of an epoch of {before}, but this run has {dict(self._order())}; "
                    f"such a change needs the callback ResumableTraining, which the modules of this package bring"
                )
        self._epoch = epoch
        return self._start(epoch)

    def _start(self, epoch: int) -> EpochStart:
        return self._begun[2] if self._begun is not None and self._begun[0] == epoch else EpochStart()


class ResumableData:
    """The part of a LightningDataModule that keeps the training position in checkpoints; inherit it first.

    Attributes:
        training_position: Set it in `__init__`. The training sampler asks it where an epoch begins, and
            :class:`lightning_modules.callbacks.resumable_training.ResumableTraining` finds the place to resume at.
    """

    training_position: TrainingPosition

    def state_dict(self) -> dict[str, Any]:
        """The order of the training samples and how much of the epoch is done; Lightning puts it into checkpoints."""
        return self.training_position.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the position of the checkpoint that the run resumes from."""
        self.training_position.load_state_dict(state_dict)


def _unit(order: Mapping[str, Any]) -> int:
    """Items of the order that all processes take in one batch."""
    ranks = int(order["ranks"])
    return ranks if order.get("layout") == "packed" else ranks * int(order["batch_size"])


def _made_for(order: Mapping[str, Any]) -> int | None:
    return None if order.get("layout") == "padded" else _unit(order)
