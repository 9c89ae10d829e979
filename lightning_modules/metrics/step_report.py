"""Step metrics of each source and over all sources, as VisualProcessBench is reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from lightning_modules.metrics.calibration import CalibrationBin, calibration_bins, expected_calibration_error
from lightning_modules.metrics.step_f1 import StepF1
from lightning_modules.metrics.step_overall import RESAMPLES, StepOverall, step_overall
from lightning_modules.metrics.step_threshold import PROBABILITY, StepThreshold, best_threshold

BENCHMARK_ITSELF = "the benchmark itself"


@dataclass(frozen=True)
class ScoredSolution:
    """A solution with the scores and the human labels of its steps.

    Attributes:
        sample_id: Identifies the solution.
        source: Dataset of its question.
        scores: One score per step.
        correctness: One label per step: 1 correct, -1 wrong, 0 neutral.

    Raises:
        ValueError: If the fields disagree about the number of steps, a score is not finite or a label is unknown.
    """

    sample_id: str
    source: str
    scores: list[float]
    correctness: list[int]

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.correctness):
            raise ValueError(f"{self.sample_id}: {len(self.scores)} scores for {len(self.correctness)} labels")
        for step, (score, label) in enumerate(zip(self.scores, self.correctness, strict=True)):
            if not math.isfinite(score):
                raise ValueError(f"{self.sample_id}, step {step}: the score is {score}")
            if label not in (-1, 0, 1):
                raise ValueError(f"{self.sample_id}, step {step}: correctness must be 1, 0 or -1, got {label}")


@dataclass(frozen=True)
class StepMetrics:
    """Agreement of scores and labels over some solutions; neutral steps have no part in it.

    Attributes:
        macro_f1: Mean of the next two, in [0, 1].
        correct_f1: F1 of the correct steps.
        wrong_f1: F1 of the wrong steps.
        accuracy: Share of steps judged as labelled.
        auroc: Area under the ROC curve, which needs no threshold; None if only one class occurs.
        correct_average_precision: Average precision of finding correct steps by a high score; None if only one class
            occurs.
        wrong_average_precision: Average precision of finding wrong steps by a low score; None if only one class occurs.
        expected_calibration_error: See :mod:`lightning_modules.metrics.calibration`; None if no step counts, or if
            scores are not probabilities.
        correct_steps: Number of correct steps.
        wrong_steps: Number of wrong steps.
        neutral_steps: Number of neutral steps.
        solutions: Number of solutions.
    """

    macro_f1: float
    correct_f1: float
    wrong_f1: float
    accuracy: float
    auroc: float | None
    correct_average_precision: float | None
    wrong_average_precision: float | None
    expected_calibration_error: float | None
    correct_steps: int
    wrong_steps: int
    neutral_steps: int
    solutions: int


@dataclass(frozen=True)
class StepIndexMetrics:
    """Steps with the same index in their solutions; neutral ones do not count.

    Attributes:
        step_index: Index of the step, from 0.
        steps: Number of such steps.
        wrong_steps: Number of wrong ones.
        error_rate: Share of wrong ones.
        wrong_recall: Share of the wrong ones that are judged wrong; None if there are none.
        correct_recall: Share of the correct ones that are judged correct; None if there are none.
    """

    step_index: int
    steps: int
    wrong_steps: int
    error_rate: float
    wrong_recall: float | None
    correct_recall: float | None


@dataclass(frozen=True)
class StepReport:
    """Metrics of each source, in alphabetical order, and of all steps together.

    Attributes:
        threshold: Least score of a step that counts as judged correct.
        overall: Metrics of all steps, pooled.
        sources: Metrics by source.
        by_step_index: Metrics by step index, in order; indices where no step counts are left out.
        calibration: Bins over all steps; empty if no step counts, or if scores are not probabilities.
        thresholds: Both overall numbers, first wrong steps and whole solutions: at the threshold of the report, and
            then at others to compare with.
    """

    threshold: StepThreshold
    overall: StepMetrics
    sources: dict[str, StepMetrics]
    by_step_index: list[StepIndexMetrics]
    calibration: list[CalibrationBin]
    thresholds: list[StepOverall]

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries for JSON."""
        threshold = {
            "threshold": self.threshold.value,
            "threshold_source": self.threshold.source,
            "threshold_chosen_on": self.threshold.chosen_on,
        }
        return threshold | {name: value for name, value in asdict(self).items() if name != "threshold"}


def step_report(
    solutions: Sequence[ScoredSolution],
    threshold: StepThreshold | None,
    score_range: tuple[float, float] = PROBABILITY,
    others: Sequence[StepThreshold | None] = (),
    resamples: int = RESAMPLES,
) -> StepReport:
    """Compare scores with labels.

    Args:
        solutions: At least one.
        threshold: Least score of a step that counts as judged correct. None chooses the one with the best pooled macro
            F1 on these very steps, and the report says so.
        score_range: Least and greatest score. Scores outside [0, 1] are not probabilities and have no calibration.
        others: Thresholds to compare with, None being the oracle's as above. One that equals the report's own, or an
            oracle that cannot be chosen, is left out.
        resamples: Number of bootstrap resamples over solutions.

    Raises:
        OneLabelError: If no threshold can be chosen because all steps have one label.
        ValueError: If there is no solution.
    """
    if not solutions:
        raise ValueError("no solutions to report on")
    scores, labels = _flatten(solutions)
    is_decided = labels != 0
    decided, is_correct = scores[is_decided], labels[is_decided] == 1
    if threshold is None:
        threshold = _oracle(decided, is_correct, score_range)
    compared = [threshold]
    for other in others:
        if other is None and 0 < int(is_correct.sum()) < len(is_correct):
            other = _oracle(decided, is_correct, score_range)
        if other is not None and (other.source, other.value) not in [(each.source, each.value) for each in compared]:
            compared.append(other)
    names = sorted({solution.source for solution in solutions})
    sources = {name: [solution for solution in solutions if solution.source == name] for name in names}
    return StepReport(
        threshold=threshold,
        overall=_metrics(solutions, threshold.value, score_range),
        sources={name: _metrics(members, threshold.value, score_range) for name, members in sources.items()},
        by_step_index=_by_step_index(solutions, threshold.value),
        calibration=calibration_bins(decided, is_correct) if len(decided) and score_range == PROBABILITY else [],
        thresholds=[step_overall(solutions, each, resamples) for each in compared],
    )


def _oracle(decided: Tensor, is_correct: Tensor, score_range: tuple[float, float]) -> StepThreshold:
    return StepThreshold(best_threshold(decided, is_correct, score_range)[0], "oracle", BENCHMARK_ITSELF)


def _flatten(solutions: Sequence[ScoredSolution]) -> tuple[Tensor, Tensor]:
    """Scores and labels of all steps, each (n,)."""
    scores = torch.tensor([score for solution in solutions for score in solution.scores], dtype=torch.float64)
    labels = torch.tensor([label for solution in solutions for label in solution.correctness], dtype=torch.long)
    return scores, labels


def _metrics(solutions: Sequence[ScoredSolution], threshold: float, score_range: tuple[float, float]) -> StepMetrics:
    scores, labels = _flatten(solutions)
    is_decided = labels != 0
    decided, is_correct = scores[is_decided], labels[is_decided] == 1
    # Every rank holds all solutions already.
    metric = StepF1(threshold, sync_on_compute=False)
    metric.update(decided, is_correct)
    values = {name: value.item() for name, value in metric.compute().items()}
    correct, wrong = int(values.pop("correct_steps")), int(values.pop("wrong_steps"))
    targets, has_both = is_correct.long(), correct > 0 and wrong > 0
    # Ranking metrics of torchmetrics take what is outside of [0, 1] for logits.
    low, high = score_range
    ranking = (decided - low) / (high - low)
    is_calibrated = len(decided) and score_range == PROBABILITY
    return StepMetrics(
        **values,
        auroc=binary_auroc(ranking, targets).item() if has_both else None,
        correct_average_precision=binary_average_precision(ranking, targets).item() if has_both else None,
        wrong_average_precision=binary_average_precision(1 - ranking, 1 - targets).item() if has_both else None,
        expected_calibration_error=expected_calibration_error(decided, is_correct) if is_calibrated else None,
        correct_steps=correct,
        wrong_steps=wrong,
        neutral_steps=int((~is_decided).sum()),
        solutions=len(solutions),
    )


def _by_step_index(solutions: Sequence[ScoredSolution], threshold: float) -> list[StepIndexMetrics]:
    places: dict[int, list[tuple[bool, bool]]] = {}
    for solution in solutions:
        for index, (score, label) in enumerate(zip(solution.scores, solution.correctness, strict=True)):
            if label != 0:
                places.setdefault(index, []).append((score >= threshold, label == 1))
    rows = []
    for index, judged in sorted(places.items()):
        wrong = [not is_judged_correct for is_judged_correct, is_correct in judged if not is_correct]
        correct = [is_judged_correct for is_judged_correct, is_correct in judged if is_correct]
        rows.append(
            StepIndexMetrics(
                step_index=index,
                steps=len(judged),
                wrong_steps=len(wrong),
                error_rate=len(wrong) / len(judged),
                wrong_recall=sum(wrong) / len(wrong) if wrong else None,
                correct_recall=sum(correct) / len(correct) if correct else None,
            )
        )
    return rows
