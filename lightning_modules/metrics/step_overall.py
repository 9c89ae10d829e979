"""One number for a benchmark of judged steps: over all steps, and as the mean of its sources, with intervals.

Papers use both, and they differ where sources differ in size. Beside the judgement of steps there are first wrong steps
and whole solutions. U solutions, C counts a solution, R resamples.

Source of the first-wrong-step measures on VisualProcessBench: TIM-PRM (arXiv 2511.22998).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.best_of_n import Estimate
from lightning_modules.metrics.bootstrap import percentile_interval, resampled_means
from lightning_modules.metrics.step_threshold import StepThreshold

Array = NDArray[np.float64]

RESAMPLES = 1000

METRICS = (
    "macro_f1",
    "correct_f1",
    "wrong_f1",
    "accuracy",
    "first_wrong_exact",
    "first_wrong_within_one",
    "response_macro_f1",
    "response_accuracy",
)
"""What :class:`StepOverall` holds.

The first four judge steps. Of the solutions with a wrong step, ``first_wrong_exact`` is the share in which the first
step judged wrong is the first wrong one, ``first_wrong_within_one`` the share in which it is at most one step away. The
last two judge solutions: one is right if it has no wrong step, and judged right if no step of it is judged wrong.
"""


class Judged(Protocol):
    """What is needed of a solution, see :class:`lightning_modules.metrics.step_report.ScoredSolution`."""

    @property
    def source(self) -> str:
        """Where its question comes from."""

    @property
    def scores(self) -> Sequence[float]:
        """One score a step."""

    @property
    def correctness(self) -> Sequence[int]:
        """One label a step: 1 correct, -1 wrong, 0 neutral."""


@dataclass(frozen=True)
class StepOverall:
    """The overall numbers at one threshold.

    Attributes:
        threshold: From which on a step counts as judged correct.
        pooled: Metric to its value over all steps or solutions, with a 95 % interval over solutions.
        mean_of_sources: Metric to the mean of its values by source, likewise.
        sources: Source to metric to value; None where it is undefined.
        steps: Steps that count, neutral ones aside, by source.
        solutions: Solutions by source.
        wrong_solutions: Solutions with a wrong step, by source.
    """

    threshold: StepThreshold
    pooled: dict[str, Estimate]
    mean_of_sources: dict[str, Estimate]
    sources: dict[str, dict[str, float | None]]
    steps: dict[str, int]
    solutions: dict[str, int]
    wrong_solutions: dict[str, int]


def step_overall(
    solutions: Sequence[Judged], threshold: StepThreshold, resamples: int = RESAMPLES, seed: int = 0
) -> StepOverall:
    """Compute the overall numbers at a threshold.

    Intervals: the solutions of each source are drawn with replacement, so that every resample has as many of each. The
    draws depend on the seed and the source alone, so intervals at several thresholds compare. A metric that is
    undefined for a source, such as a first wrong step where there is none, is left out of the mean of sources.

    Args:
        solutions: At least one.
        threshold: From which score on a step counts as judged correct. Neutral steps are passed over.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    sources = sorted({solution.source for solution in solutions})
    counts = {
        name: np.array([_counts(each, threshold.value) for each in solutions if each.source == name], np.float64)
        for name in sources
    }
    sums = {name: rows.sum(axis=0)[None] for name, rows in counts.items()}
    drawn = {
        name: resampled_means(rows, resamples, np.random.default_rng([seed, zlib.crc32(name.encode())])) * len(rows)
        for name, rows in counts.items()
    }
    by_source = {name: _metrics(total)[0] for name, total in sums.items()}
    return StepOverall(
        threshold=threshold,
        pooled=_estimates(_metrics(_total(sums)), _metrics(_total(drawn))),
        mean_of_sources=_estimates(_mean(sums), _mean(drawn)),
        sources={
            name: {metric: _number(value) for metric, value in zip(METRICS, values, strict=True)}
            for name, values in by_source.items()
        },
        steps={name: int(total[0, :4].sum()) for name, total in sums.items()},
        solutions={name: len(rows) for name, rows in counts.items()},
        wrong_solutions={name: int(total[0, 4]) for name, total in sums.items()},
    )


def _counts(solution: Judged, threshold: float) -> list[float]:
    """Steps judged right or wrong by label, first wrong steps, and the solution as a whole: (C,)."""
    decided = [
        (place, score >= threshold, label == 1)
        for place, (score, label) in enumerate(zip(solution.scores, solution.correctness, strict=True))
        if label != 0
    ]
    steps = [
        sum((judged, label) == kind for _, judged, label in decided)
        for kind in ((True, True), (True, False), (False, True), (False, False))
    ]
    wrong = next((place for place, _, label in decided if not label), None)
    found = next((place for place, judged, _ in decided if not judged), None)
    distance = abs(wrong - found) if wrong is not None and found is not None else None
    first = [wrong is not None, distance == 0, distance is not None and distance <= 1]
    whole = [
        (found is None, wrong is None) == kind for kind in ((True, True), (True, False), (False, True), (False, False))
    ]
    return [float(value) for value in (*steps, *first, *whole)]


def _metrics(counts: Array) -> Array:
    """Values of :data:`METRICS` from sums (R, C): (R, M), NaN where there is nothing to judge."""
    correct, wrong, accuracy = _f1(counts[:, :4])
    right, broken, responses = _f1(counts[:, 7:])
    with np.errstate(invalid="ignore"):
        first = counts[:, 5:7] / counts[:, 4:5]
    columns = [
        (correct + wrong) / 2,
        correct,
        wrong,
        accuracy,
        first[:, 0],
        first[:, 1],
        (right + broken) / 2,
        responses,
    ]
    return np.stack(columns, axis=1)


def _f1(counts: Array) -> tuple[Array, Array, Array]:
    """F1 of both classes, 0 for one that neither occurs nor is judged to, and the accuracy; NaN of nothing."""
    true_correct, false_correct, false_wrong, true_wrong = counts.T
    errors = false_correct + false_wrong
    correct = 2 * true_correct / np.maximum(2 * true_correct + errors, 1)
    wrong = 2 * true_wrong / np.maximum(2 * true_wrong + errors, 1)
    with np.errstate(invalid="ignore"):
        accuracy = (true_correct + true_wrong) / counts.sum(axis=1)
    return correct, wrong, accuracy


def _total(counts: Mapping[str, Array]) -> Array:
    return np.sum(list(counts.values()), axis=0)


def _mean(counts: Mapping[str, Array]) -> Array:
    """The mean over sources of each metric, those where it is undefined left out: (R, M)."""
    values = np.stack([_metrics(rows) for rows in counts.values()])
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)


def _estimates(values: Array, samples: Array) -> dict[str, Estimate]:
    """Metrics with their intervals; those that are undefined are left out."""
    found = {}
    for column, metric in enumerate(METRICS):
        value, draws = float(values[0, column]), samples[:, column]
        if not np.isnan(value):
            low, high = percentile_interval(draws[~np.isnan(draws)][:, None])
            found[metric] = Estimate(value, float(low[0]), float(high[0]))
    return found


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
