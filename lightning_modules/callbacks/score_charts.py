"""TensorBoard charts of scores: precision-recall curves of steps, and histograms by verdict. Rank zero only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lightning.pytorch import Trainer

from lightning_modules.callbacks.reporting import tensorboards
from lightning_modules.metrics.bootstrap import Array
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.step_report import ScoredSolution

_BINS = 40


def show_step_charts(
    trainer: Trainer, name: str, solutions: Sequence[ScoredSolution], score_range: tuple[float, float]
) -> None:
    """Precision and recall of finding wrong steps by a low score and correct steps by a high one, and histograms.

    Tags: ``NAME_precision_recall/wrong`` and ``/correct``, left out where all steps have one label;
    ``NAME_scores/correct``, ``/wrong`` and ``/neutral``. Thresholds of the curves are shares of the score range.

    Args:
        trainer: Its TensorBoard loggers are used.
        name: Begins the tags.
        solutions: Those of all ranks.
        score_range: Least and greatest score.
    """
    if not tensorboards(trainer):
        return
    scores = np.array([score for solution in solutions for score in solution.scores])
    labels = np.array([label for solution in solutions for label in solution.correctness])
    low, high = score_range
    share = ((scores - low) / (high - low))[labels != 0]
    is_correct = labels[labels != 0] > 0
    if 0 < is_correct.sum() < len(is_correct):
        for board in tensorboards(trainer):
            board.add_pr_curve(f"{name}_precision_recall/wrong", ~is_correct, 1 - share, trainer.global_step)
            board.add_pr_curve(f"{name}_precision_recall/correct", is_correct, share, trainer.global_step)
    groups = {"correct": scores[labels > 0], "wrong": scores[labels < 0], "neutral": scores[labels == 0]}
    _show_histograms(trainer, f"{name}_scores", groups)


def show_response_charts(trainer: Trainer, questions: Sequence[QuestionCandidates], how: Aggregation) -> None:
    """Histograms of the response scores of right and wrong candidates: ``best_of_n_scores/right`` and ``/wrong``."""
    if not tensorboards(trainer):
        return
    scores = np.array([score for question in questions for score in question.response_scores(how)])
    is_right = np.array([verdict for question in questions for verdict in question.is_correct], dtype=bool)
    _show_histograms(trainer, "best_of_n_scores", {"right": scores[is_right], "wrong": scores[~is_right]})


def _show_histograms(trainer: Trainer, name: str, groups: dict[str, Array]) -> None:
    """All groups in the same bins, so that they compare; none for an empty group."""
    everything = np.concatenate(list(groups.values()))
    low = min(0.0, float(everything.min(initial=0.0)))
    # The default bins of TensorBoard grow with the value, so that one would hold most scores.
    bins = np.linspace(low, max(1.0, float(everything.max(initial=1.0))), _BINS + 1)
    for board in tensorboards(trainer):
        for group, values in groups.items():
            if len(values):
                board.add_histogram(f"{name}/{group}", values, trainer.global_step, bins=bins)
