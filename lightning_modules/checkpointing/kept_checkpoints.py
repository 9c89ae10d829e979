"""The checkpoints of one run in its folder: their names, the links to the latest and the best, and which are kept."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Literal

from datamodules.storage.fields import first_of
from lightning_modules.checkpointing.folder import force_to_disk, is_checkpoint_folder, remove_folder

logger = logging.getLogger(__name__)

LATEST, BEST = "latest", "best"
Mode = Literal["max", "min"]
_NAME = re.compile(r"step_(\d{8,})")


class KeptCheckpoints:
    """Checkpoints such as ``step_00001200``, with symbolic links ``latest`` and ``best`` to two of them.

    Args:
        folder: Of the checkpoints.
        keep_last: How many of the last checkpoints are kept.
        keep_best: How many of the best checkpoints are kept, of those with a score.
        mode: Whether more or less of the score is better.

    Attributes:
        scores: By name of the checkpoint.
    """

    def __init__(self, folder: Path, keep_last: int, keep_best: int, mode: Mode) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.mode = mode
        self.scores: dict[str, float] = {}

    @property
    def names(self) -> list[str]:
        """Names of the complete checkpoints, by step."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted((n for n in names if is_checkpoint_folder(self.folder / n)), key=step_of)

    @property
    def best(self) -> list[str]:
        """Names of checkpoints with a score, the best first; of equal ones the later first."""
        scored = [name for name in self.names if name in self.scores]
        sign = -1 if self.mode == "max" else 1
        return sorted(scored, key=lambda name: (sign * self.scores[name], -step_of(name)))

    def linked(self, name: str) -> Path | None:
        """The complete checkpoint that ``latest`` or ``best`` points to; None if there is none."""
        link = self.folder / name
        return link.resolve() if is_checkpoint_folder(link) else None

    def holds(self, checkpoint: Path) -> bool:
        """Whether a path is that of a checkpoint of this folder."""
        return checkpoint.parent == self.folder.resolve() and bool(_NAME.fullmatch(checkpoint.name))

    def point(self, name: str, target: str) -> None:
        """Make a link point to a checkpoint, atomically."""
        new = self.folder / f".{name}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        os.replace(new, self.folder / name)
        force_to_disk(self.folder)

    def point_to_best(self) -> None:
        """Make ``best`` point to the best checkpoint, if there is one."""
        if best := self.best:
            self.point(BEST, best[0])

    def set_aside_later_than(self, origin: str) -> None:
        """Move checkpoints of later steps into a folder of their own: another run may have computed them."""
        later = [name for name in self.names if step_of(name) > step_of(origin)]
        if not later:
            return
        taken = len(list(self.folder.glob(f"later_than_{origin}*")))
        place = self.folder / f"later_than_{origin}{f'_{taken + 1}' if taken else ''}"
        place.mkdir()
        for name in later:
            (self.folder / name).rename(place / name)
        if not (self.folder / BEST).exists():
            (self.folder / BEST).unlink(missing_ok=True)
        force_to_disk(place)
        force_to_disk(self.folder)
        logger.warning(
            "the run goes back to %s: later checkpoints (%s) are now in %s; remove them if nobody needs them",
            self.folder / origin,
            first_of(later),
            place,
        )

    def prune(self, step: int) -> None:
        """Remove checkpoints up to a step that are neither of the last nor of the best, nor the target of a link."""
        past = [name for name in self.names if step_of(name) <= step]
        keep = {*past[-self.keep_last :], *self.best[: self.keep_best]}
        keep |= {os.readlink(link) for link in (self.folder / LATEST, self.folder / BEST) if link.is_symlink()}
        for name in past:
            if name not in keep:
                remove_folder(self.folder / name)
        self.scores = {name: score for name, score in self.scores.items() if name in keep}


def name_of(step: int) -> str:
    """Name of the checkpoint after a number of optimizer steps."""
    return f"step_{step:08d}"


def step_of(name: str) -> int:
    """Number of optimizer steps before a checkpoint."""
    return int(name.removeprefix("step_"))
