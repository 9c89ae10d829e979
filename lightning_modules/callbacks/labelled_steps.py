"""The steps of a batch that have a label, with their scores: of process supervision and of VisualProcessBench."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from datamodules.batching.collate import StepBatch
from datamodules.conversation.labels import IGNORE_INDEX, value_labels
from datamodules.process_bench.solutions import CORRECT, INCORRECT, ProcessBenchBatch

LabelledSplit = Literal["validation", "process_bench"]


@dataclass(frozen=True)
class LabelledSteps:
    """The labelled steps of a solution.

    Attributes:
        split: ``validation`` for the process validation split, ``process_bench`` for VisualProcessBench.
        sample_id: Unique in the split.
        scores: One for each labelled step.
        is_right: By a human label, or by a Monte Carlo score above the threshold.
        kinds: See :mod:`datamodules.conversation.step_kinds`; empty where they are not known.
    """

    split: LabelledSplit
    sample_id: str
    scores: list[float]
    is_right: list[bool]
    kinds: list[int]


def labelled_steps(
    batch: StepBatch, step_scores: Sequence[Sequence[Tensor]], mc_threshold: float
) -> Iterator[tuple[tuple[str, str], LabelledSteps]]:
    """The labelled steps of each solution of a batch, with the key ``(split, sample_id)``; neutral steps have no label.

    Args:
        batch: Of either split.
        step_scores: See :class:`lightning_modules.scoring.scored_batch.ScoredBatch`.
        mc_threshold: A step of process supervision is right if its Monte Carlo score is above it.
    """
    split: LabelledSplit
    if isinstance(batch, ProcessBenchBatch):
        judged = batch.correctness.cpu()
        split, is_right, is_labelled = "process_bench", judged == CORRECT, (judged == CORRECT) | (judged == INCORRECT)
    else:
        labels = value_labels(batch.mc.cpu(), mc_threshold)
        split, is_right, is_labelled = "validation", labels == 0, labels != IGNORE_INDEX
    is_step = (batch.step_positions >= 0).cpu()
    kinds = None if batch.step_kinds is None else batch.step_kinds.cpu()
    for row, (scores,) in enumerate(step_scores):
        labelled = is_labelled[row][is_step[row]]
        name = batch.sample_ids[row]
        steps = LabelledSteps(
            split,
            name,
            scores.double()[labelled].tolist(),
            is_right[row][is_step[row]][labelled].tolist(),
            [] if kinds is None else kinds[row][is_step[row]][labelled].tolist(),
        )
        yield (split, name), steps


def scores_and_labels(rows: Sequence[LabelledSteps]) -> tuple[Tensor, Tensor]:
    """Scores (n,) float64 and labels (n,) bool of all steps of some solutions."""
    scores = torch.tensor([score for row in rows for score in row.scores], dtype=torch.float64)
    return scores, torch.tensor([label for row in rows for label in row.is_right], dtype=torch.bool)
