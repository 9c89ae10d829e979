"""Best-of-N accuracies of a set of benchmarks with bootstrap intervals.

Q questions, U units, M methods, P compared pairs of methods, R resamples, K = len(ns) * (M + P) columns.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lightning_modules.metrics.bootstrap import Array, percentile_interval, resampled_means
from lightning_modules.metrics.response_score import AGGREGATIONS, Aggregation
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.selection.methods import (
    PASS_AT_1,
    SELF_CONSISTENCY,
    WEIGHTED_VOTE,
    method_accuracies,
    methods_of,
)
from lightning_modules.metrics.selection.pool import OUTCOME, candidate_pool, critic_method, process_method
from lightning_modules.metrics.selection.subsets import Subsets

ALL_QUESTIONS = "all_questions"
OVERALL = "overall"
CONFIDENCE = 0.95

UnitScorer = Callable[[Array], Array]
"""Turns per-question accuracies (Q, K) into the benchmark's unit scores (U, K), whose mean is its headline."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % percentile interval; accuracies in [0, 1], differences in [-1, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Coverage:
    """Sizes behind a column.

    Attributes:
        questions: Number of questions.
        units: Number of units that the headline averages over.
        candidates: Number of candidate answers.
        unparsed_candidates: Number of candidates without a readable final answer.
        unparsed_questions: Number of questions without any candidate that has one.
    """

    questions: int
    units: int
    candidates: int
    unparsed_candidates: int
    unparsed_questions: int

    @property
    def unparsed_share(self) -> float:
        """Share of candidates without a readable final answer, in [0, 1]."""
        return self.unparsed_candidates / self.candidates


@dataclass(frozen=True)
class BestOfNReport:
    """Accuracies and paired differences.

    Attributes:
        ns: Numbers of candidates, ascending.
        methods: Names of the methods.
        primary: The method that stands for the reward model in comparisons.
        critic: What the reward model is, e.g. "PRM" or "ORM".
        subsets: Whether methods choose from the first n candidates, or from all subsets of n, for n below the largest.
        comparisons: Pairs (a, b) of methods; their difference is a - b.
        benchmarks: Names of the benchmarks.
        accuracies: By (column, method, n). Columns are the benchmarks (their headline metric), ``all_questions`` (share
            of all questions answered correctly) and ``overall`` (unweighted mean of headlines).
        differences: By (column, a, b, n).
        coverage: Sizes by benchmark, and for ``all_questions``.
        overall: Names of the benchmarks that ``overall`` averages over.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
    """

    ns: tuple[int, ...]
    methods: tuple[str, ...]
    primary: str
    critic: str
    subsets: Subsets
    comparisons: tuple[tuple[str, str], ...]
    benchmarks: tuple[str, ...]
    accuracies: dict[tuple[str, str, int], Estimate]
    differences: dict[tuple[str, str, str, int], Estimate]
    coverage: dict[str, Coverage]
    overall: tuple[str, ...]
    resamples: int
    seed: int

    @property
    def columns(self) -> tuple[str, ...]:
        """Benchmarks, then the two summaries."""
        return (*self.benchmarks, ALL_QUESTIONS, OVERALL)

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries for JSON: ``accuracies[column][method][n]``, ``differences[column]["a - b"][n]``."""
        accuracies: dict[str, Any] = {}
        for (column, method, n), estimate in self.accuracies.items():
            accuracies.setdefault(column, {}).setdefault(method, {})[str(n)] = asdict(estimate)
        differences: dict[str, Any] = {}
        for (column, better, other, n), estimate in self.differences.items():
            differences.setdefault(column, {}).setdefault(f"{better} - {other}", {})[str(n)] = asdict(estimate)
        return {
            "ns": list(self.ns),
            "methods": list(self.methods),
            "primary": self.primary,
            "critic": self.critic,
            "subsets": self.subsets,
            "benchmarks": list(self.benchmarks),
            "overall_of": list(self.overall),
            "accuracies": accuracies,
            "differences": differences,
            "coverage": {
                name: asdict(coverage) | {"unparsed_share": coverage.unparsed_share}
                for name, coverage in self.coverage.items()
            },
            "bootstrap": {"resamples": self.resamples, "seed": self.seed, "confidence": CONFIDENCE},
        }


def best_of_n_report(
    candidates: Mapping[str, Sequence[QuestionCandidates]],
    unit_scorers: Mapping[str, UnitScorer],
    ns: Sequence[int] = (1, 2, 4, 8),
    aggregations: Sequence[Aggregation] = AGGREGATIONS,
    resamples: int = 1000,
    seed: int = 0,
    overall: Sequence[str] | None = None,
    subsets: Subsets = "all",
    least_score: float = 0.0,
    critic: str = "PRM",
) -> BestOfNReport:
    """Evaluate every method on every benchmark.

    For intervals, each benchmark's units are drawn with replacement, each benchmark with its own random numbers.
    `overall` averages the resampled headlines. `all_questions` draws single questions of each benchmark, even if
    several belong to a unit. All methods see the same draws, so intervals of differences are paired.

    Args:
        candidates: Questions by benchmark.
        unit_scorers: For each benchmark, computes unit scores from the accuracies of its questions, in the order given.
        ns: Numbers of candidates.
        aggregations: Ways to aggregate step scores; the first one is the primary one.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
        overall: Benchmarks that ``overall`` averages over; all by default.
        subsets: Whether methods choose from the first n candidates, or from all subsets of n of the largest n.
        least_score: The least score that the reward model can give.
        critic: What the reward model is, e.g. "PRM" or "ORM".

    Raises:
        ValueError: If there is nothing to evaluate or average, an argument is out of range, or a question cannot be
            used; see :func:`lightning_modules.metrics.selection.pool.candidate_pool`.
    """
    _check_arguments(candidates, ns, aggregations)
    ns, primary = sorted(ns), process_method(aggregations[0])
    pools = {
        name: candidate_pool(questions, ns[-1], aggregations, subsets, least_score)
        for name, questions in candidates.items()
    }
    methods = [method.name for method in methods_of(next(iter(pools.values())))]
    critics = [critic_method(name) for name in next(iter(candidates.values()))[0].critic_scores]
    report = BestOfNReport(
        ns=tuple(ns),
        methods=tuple(methods),
        primary=primary,
        critic=critic,
        subsets=subsets,
        comparisons=_comparisons(methods, primary, critics),
        benchmarks=tuple(candidates),
        accuracies={},
        differences={},
        coverage={},
        overall=tuple(candidates if overall is None else overall),
        resamples=resamples,
        seed=seed,
    )
    if not report.overall or not set(report.overall) <= set(candidates):
        raise ValueError(f"overall must be some of {', '.join(candidates)}, got {list(report.overall)}")
    headlines, pooled = {}, []
    for name, questions in candidates.items():
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        right = method_accuracies(pools[name], ns).reshape(len(questions), -1)
        units = _checked_units(name, unit_scorers[name](right), right.shape[1])
        headlines[name] = (units.mean(axis=0), resampled_means(units, resamples, generator))
        pooled.append((right.sum(axis=0), resampled_means(right, resamples, generator) * len(right)))
        report.coverage[name] = _coverage(questions, len(units))
        _add_estimates(report, name, *headlines[name])
    everything = [question for questions in candidates.values() for question in questions]
    report.coverage[ALL_QUESTIONS] = _coverage(everything, len(everything))
    averaged = [headlines[name] for name in report.overall]
    for column, parts, count in ((ALL_QUESTIONS, pooled, len(everything)), (OVERALL, averaged, len(averaged))):
        values, samples = zip(*parts, strict=True)
        _add_estimates(report, column, np.sum(values, axis=0) / count, np.sum(samples, axis=0) / count)
    return report


def _check_arguments(
    candidates: Mapping[str, Sequence[QuestionCandidates]], ns: Sequence[int], aggregations: Sequence[Aggregation]
) -> None:
    """Check the arguments of :func:`best_of_n_report`."""
    if not candidates or any(not questions for questions in candidates.values()):
        empty = [name for name, questions in candidates.items() if not questions]
        raise ValueError(f"nothing to evaluate: no questions of {', '.join(empty) or 'any benchmark'}")
    if not ns or min(ns) < 1 or len(set(ns)) < len(ns):
        raise ValueError(f"ns must be different positive numbers of candidates, got {list(ns)}")
    if not aggregations or len(set(aggregations)) < len(aggregations):
        raise ValueError(f"aggregations must be different and at least one, got {list(aggregations)}")
    everything = [question for questions in candidates.values() for question in questions]
    if len({question.outcome_scores is not None for question in everything}) > 1:
        raise ValueError("outcome scores must be given for all questions of all benchmarks or for none")
    if len({(frozenset(question.critic_scores), question.lengths is None) for question in everything}) > 1:
        raise ValueError(
            "scores of critics, and lengths, must be given for all questions of all benchmarks or for none"
        )


def _comparisons(methods: Sequence[str], primary: str, critics: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The pairs of methods that a report compares."""
    others = [name for name in (SELF_CONSISTENCY, OUTCOME, *critics, PASS_AT_1) if name in methods]
    pairs = [(primary, other) for other in others]
    return (*pairs, (WEIGHTED_VOTE, SELF_CONSISTENCY), (WEIGHTED_VOTE, primary), (SELF_CONSISTENCY, PASS_AT_1))


def _checked_units(name: str, units: Array, columns: int) -> Array:
    units = np.asarray(units, dtype=np.float64)
    if units.ndim != 2 or not len(units) or units.shape[1] != columns:
        raise ValueError(f"{name}: expected unit scores of shape (U, {columns}), got {units.shape}")
    if not ((units >= 0) & (units <= 1)).all():
        raise ValueError(f"{name}: unit scores must be in [0, 1], got {units.min()} to {units.max()}")
    return units


def _coverage(questions: Sequence[QuestionCandidates], units: int) -> Coverage:
    unparsed = [sum(answer < 0 for answer in question.answer_classes) for question in questions]
    return Coverage(
        questions=len(questions),
        units=units,
        candidates=sum(len(question.answer_classes) for question in questions),
        unparsed_candidates=sum(unparsed),
        unparsed_questions=sum(
            count == len(question.answer_classes) for count, question in zip(unparsed, questions, strict=True)
        ),
    )


def _add_estimates(report: BestOfNReport, column: str, values: Array, samples: Array) -> None:
    """Add one column from values (K,) and samples (R, K), with K = len(ns) * M."""
    shape = (len(report.ns), len(report.methods))
    value = values.reshape(shape)
    sample = samples.reshape(-1, *shape)
    low, high = percentile_interval(sample, CONFIDENCE)
    index = {method: number for number, method in enumerate(report.methods)}
    for row, n in enumerate(report.ns):
        for method, number in index.items():
            report.accuracies[column, method, n] = Estimate(
                float(value[row, number]), float(low[row, number]), float(high[row, number])
            )
        for better, other in report.comparisons:
            a, b = index[better], index[other]
            below, above = percentile_interval(sample[:, row, a] - sample[:, row, b], CONFIDENCE)
            report.differences[column, better, other, n] = Estimate(
                float(value[row, a] - value[row, b]), float(below), float(above)
            )
