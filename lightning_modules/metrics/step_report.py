"""Step judgement per source of solutions and over all of them, as VisualProcessBench is reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torchmetrics.functional.classification import binary_auroc

from lightning_modules.metrics.step_f1 import StepF1
from lightning_modules.metrics.table import Cell, Table


@dataclass(frozen=True)
class JudgedSolution:
    """The steps of one solution.

    Attributes:
        sample_id: Identifies the solution.
        source: Where its question comes from.
        scores: One score in [0, 1] a step.
        correctness: One label a step: 1 correct, -1 wrong, 0 neutral.

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
    """Agreement of scores and labels over some solutions; neutral steps are only counted.

    Attributes:
        macro_f1: Mean of the next two, in [0, 1].
        correct_f1: F1 of the correct steps.
        wrong_f1: F1 of the wrong steps.
        accuracy: Share of steps judged right.
        auroc: Area under the ROC curve, which needs no threshold; None where only one class occurs.
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
    correct_steps: int
    wrong_steps: int
    neutral_steps: int
    solutions: int


@dataclass(frozen=True)
class StepReport:
    """Metrics of each source, in alphabetical order, and of all steps together."""

    threshold: float
    overall: StepMetrics
    sources: dict[str, StepMetrics]

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries for JSON."""
        return asdict(self)

    def to_table(self) -> Table:
        """Metrics in percent, a row a source."""
        header = ["Source", "Macro F1", "F1 correct", "F1 wrong", "Accuracy", "AUROC", "Steps", "Solutions"]
        rows = []
        for name, metrics in [*self.sources.items(), ("Overall", self.overall)]:
            shares = (metrics.macro_f1, metrics.correct_f1, metrics.wrong_f1, metrics.accuracy, metrics.auroc)
            counts = (metrics.correct_steps + metrics.wrong_steps, metrics.solutions)
            texts = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
            rows.append([Cell(text) for text in (name, *texts, *map(str, counts))])
        note = (
            f"A step with a score of at least {self.threshold:g} counts as judged correct. "
            f"{self.overall.neutral_steps} neutral steps are left out."
        )
        return Table("Step judgement on VisualProcessBench (%)", header, rows, note)


def step_report(solutions: Sequence[JudgedSolution], threshold: float) -> StepReport:
    """Compare scores with labels.

    Args:
        solutions: At least one.
        threshold: From which score on a step counts as judged correct, in [0, 1].

    Raises:
        ValueError: If there is no solution or the threshold is out of range.
    """
    if not solutions:
        raise ValueError("no solutions to report on")
    names = sorted({solution.source for solution in solutions})
    sources = {name: [solution for solution in solutions if solution.source == name] for name in names}
    return StepReport(
        threshold=threshold,
        overall=_metrics(solutions, threshold),
        sources={name: _metrics(members, threshold) for name, members in sources.items()},
    )


def _metrics(solutions: Sequence[JudgedSolution], threshold: float) -> StepMetrics:
    labels = torch.tensor([label for solution in solutions for label in solution.correctness], dtype=torch.long)
    scores = torch.tensor([score for solution in solutions for score in solution.scores], dtype=torch.float64)
    is_decided = labels != 0
    is_correct = labels[is_decided] == 1
    # Every rank holds all solutions already.
    metric = StepF1(threshold, sync_on_compute=False)
    metric.update(scores[is_decided], is_correct)
    values = {name: value.item() for name, value in metric.compute().items()}
    correct, wrong = int(values.pop("correct_steps")), int(values.pop("wrong_steps"))
    auroc = binary_auroc(scores[is_decided], is_correct.long()).item() if correct and wrong else None
    neutral = int((~is_decided).sum())
    return StepMetrics(
        **values,
        auroc=auroc,
        correct_steps=correct,
        wrong_steps=wrong,
        neutral_steps=neutral,
        solutions=len(solutions),
    )
