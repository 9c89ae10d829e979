"""The position of training in the order of an epoch, counted over all ranks, so that any number of ranks can resume."""

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
    """Where the iteration over an epoch starts.

    Attributes:
        done: Items of the epoch's order that all ranks together have processed: rows, or packed batches.
        made_for: What the order was laid out for, if it depends on that: rows of a batch of all ranks (grouped by
            length), or number of ranks (packed). None stands for what this run has.
    """

    done: int = 0
    made_for: int | None = None


class EpochSampler(Protocol):
    """A sampler whose order can be entered anywhere."""

    def set_epoch(self, epoch: int) -> None:
        """Switch to the order of an epoch."""

    def batches_left(self, start: EpochStart) -> int:
        """Batches of this rank from there to the end of the epoch."""


class TrainingPosition:
    """Follows training through the epochs, for checkpoints and samplers.

    A checkpoint holds how many rows (or packed batches) of the epoch's order all ranks together have processed. So a
    run that resumes within an epoch with another number of ranks or another batch size sees each of the other rows
    once. A padded order continues with exactly the next rows. A grouped or packed epoch is finished with the layout
    that it was begun with.

    Args:
        order: Returns what the order depends on now: ``ranks``, ``batch_size``, ``layout`` (padded, grouped or packed),
            and what must not change within an epoch, such as ``seed``.
    """

    def __init__(self, order: Callable[[], Mapping[str, Any]]) -> None:
        self._order = order
        self._epoch = -1
        self._resumed: Mapping[str, Any] | None = None
        self._begun = (-1, 0, EpochStart())  # a resumed epoch, and what `_begin` returns of it
        self.sampler: EpochSampler | None = None
        self.trainer: Trainer | None = None

    # ------------------------------------------------------------ checkpoints

    def state_dict(self, undone: int = 0) -> dict[str, Any]:
        """The order and the processed part of it, without the last ``undone`` batches."""
        order = dict(self._order())
        state: dict[str, Any] = {"order": order}
        if self.trainer is not None and self.trainer.state.fn == "fit":
            batches = self._processed() - undone
            begun, start = self._begin(self._epoch)
            state["position"] = {
                "epoch": self._epoch,
                "batches": batches,
                "done": start.done + (batches - begun) * _unit(order),
                "made_for": start.made_for or _made_for(order),
            }
        return state

    def step_back(self, batches: int) -> int:
        """How many of the last batches can be undone: none from before this run began to train."""
        return min(batches, self._processed() - self._begin(self._epoch)[0])

    def _processed(self) -> int:
        assert self.trainer is not None
        current: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(current.processed)

    def _begin(self, epoch: int) -> tuple[int, EpochStart]:
        """Batches of an epoch that Lightning counts although this run has not trained on them, and where it starts."""
        return self._begun[1:] if self._begun[0] == epoch else (0, EpochStart())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the position of the checkpoint until :meth:`resume`."""
        self._resumed = state

    def follow(self, sampler: EpochSampler, trainer: Trainer | None) -> None:
        """Take the sampler of the training DataLoader, and the trainer whose progress counts its batches."""
        self.sampler, self.trainer = sampler, trainer

    # ---------------------------------------------------------------- resume

    def resume(self) -> int | None:
        """Find the position to resume at; called after Lightning has restored its progress.

        Returns:
            The number of batches of the epoch that Lightning must count as processed. None if its own number is right:
            neither the number of ranks nor the batch size has changed.

        Raises:
            ValueError: If the order is not that of the checkpoint.
        """
        if self._resumed is None or self.trainer is None:
            return None
        state, self._resumed = self._resumed, None
        loop = self.trainer.fit_loop
        progress: Any = loop.epoch_progress.current
        epoch, batches, now = int(progress.processed), self._processed(), dict(self._order())
        before = {"layout": now.get("layout"), **state["order"]}
        position = state.get("position") or {
            "epoch": epoch,
            "batches": batches,
            "done": batches * _unit(before),
            "made_for": _made_for(before),
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
        if _unit(before) == _unit(now) and start.made_for == _made_for(now):
            self._begun = (epoch, position["batches"], start)
            return None
        assert self.sampler is not None
        self.sampler.set_epoch(epoch)
        whole = self.sampler.batches_left(EpochStart())
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
        """Where the iteration over an epoch starts; samplers call it when their iteration starts.

        Raises:
            ValueError: If the run resumes with another number of ranks or batch size, and Lightning was not told.
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
        return self._begin(epoch)[1]


class ResumableData:
    """The part of a LightningDataModule that keeps the training position in checkpoints; inherit it first.

    Attributes:
        training_position: Set it in `__init__`. The training sampler asks it where an epoch starts, and
            :class:`lightning_modules.callbacks.resumable_training.ResumableTraining` where to resume.
    """

    training_position: TrainingPosition

    def state_dict(self) -> dict[str, Any]:
        """The order of the training samples and the processed part of the epoch; Lightning puts it into checkpoints."""
        return self.training_position.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the position of the checkpoint that the run resumes from."""
        self.training_position.load_state_dict(state_dict)


def _unit(order: Mapping[str, Any]) -> int:
    """Items of the order that all ranks together process in one batch."""
    ranks = int(order["ranks"])
    return ranks if order.get("layout") == "packed" else ranks * int(order["batch_size"])


def _made_for(order: Mapping[str, Any]) -> int | None:
    return None if order.get("layout") == "padded" else _unit(order)
