"""Controls that show how much of a score is the picture's: questions with other pictures, or with none.

A reward model that does as well without the right pictures judges texts alone.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args

from datamodules.benchmarks import BenchmarkQuestion
from datamodules.best_of_n import BestOfNDataset
from datamodules.conversation.messages import IMAGE_PLACEHOLDER
from datamodules.process_bench.solutions import JudgedSolution, VisualProcessBenchDataset
from datamodules.rollouts.records import Rollout

PictureControl = Literal["other", "none"]
PICTURE_CONTROLS: tuple[PictureControl, ...] = get_args(PictureControl)

_Pictured = TypeVar("_Pictured", JudgedSolution, BenchmarkQuestion)


def with_pictures(dataset: BestOfNDataset | VisualProcessBenchDataset, control: PictureControl) -> tuple[Any, int]:
    """A copy of a dataset whose questions have other pictures, or none.

    ``other``: each question gets the pictures of another one of the same source with as many pictures, half the list
    away or the next one that differs. ``none``: no pictures, and texts without placeholders. All else stays as it is.

    Args:
        dataset: Is not changed.
        control: Which pictures to show.

    Returns:
        The copy, and how many of its items with pictures keep their own because there are no others.
    """
    if isinstance(dataset, VisualProcessBenchDataset):
        return _of_solutions(dataset, control)
    return _of_questions(dataset, control)


def _of_solutions(dataset: VisualProcessBenchDataset, control: PictureControl) -> tuple[VisualProcessBenchDataset, int]:
    changed, solutions = copy.copy(dataset), dataset.solutions
    if control == "none":
        changed.solutions = [replace(each, images=(), question=_bare(each.question)) for each in solutions]
        return changed, 0
    sources = [(each.data_source, len(each.images)) for each in solutions]
    images, kept = _others([each.images for each in solutions], sources)
    changed.solutions = [replace(each, images=other) for each, other in zip(solutions, images, strict=True)]
    return changed, kept


def _of_questions(dataset: BestOfNDataset, control: PictureControl) -> tuple[BestOfNDataset, int]:
    # What VLMEvalKit asks is made of the row, which has pictures of its own.
    changed, questions = copy.copy(dataset), dataset.questions
    if control == "none":
        changed.questions = [replace(each, images=(), question=_bare(each.question), row=None) for each in questions]
        changed.rollouts = [tuple(_without_placeholders(rollout) for rollout in group) for group in dataset.rollouts]
        return changed, 0
    sources = [(each.benchmark, len(each.images)) for each in questions]
    shown, kept = _others([each.images for each in questions], sources)
    changed.questions = [replace(each, images=other, row=None) for each, other in zip(questions, shown, strict=True)]
    return changed, kept


def _others(images: Sequence[Any], groups: Sequence[Hashable]) -> tuple[list[Any], int]:
    """The images of another item of the same group for each item, and how many found none."""
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    found, kept = list(images), 0
    for of_group in members.values():
        count = len(of_group)
        for place, index in enumerate(of_group):
            if not len(images[index]):
                continue
            later = ((place + count // 2 + step) % count for step in range(count))
            others = (images[of_group[other]] for other in later if images[of_group[other]] != images[index])
            found[index] = next(others, images[index])
            kept += found[index] is images[index]
    return found, kept


def _bare(text: str) -> str:
    return text.replace(IMAGE_PLACEHOLDER, "").strip()


def _without_placeholders(rollout: Rollout) -> Rollout:
    return rollout if rollout.prompt is None else replace(rollout, prompt=_bare(rollout.prompt))
