"""Secondary metrics of the benchmarks, for the responses that Best-of-N picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from datamodules.benchmarks import Benchmark, BenchmarkQuestion
from datamodules.best_of_n import BestOfNDataset
from lightning_modules.metrics.benchmark_details import BenchmarkDetails, BenchmarkFacts, benchmark_details
from lightning_modules.metrics.best_of_n import BestOfNReport
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.metrics.selection import QuestionCandidates


def details_of_benchmarks(
    report: BestOfNReport,
    candidates: Mapping[str, Sequence[QuestionCandidates]],
    questions: Mapping[str, Sequence[BenchmarkQuestion]],
    datasets: Mapping[str, BestOfNDataset],
    aggregations: Sequence[Aggregation],
) -> list[BenchmarkDetails]:
    """Headline and secondary metrics of every benchmark at the largest N.

    Args:
        report: Best-of-N report on the same candidates.
        candidates: Candidates by benchmark; complete units only.
        questions: Questions of these candidates, in the same order.
        datasets: Datasets of the candidates.
        aggregations: Ways to aggregate step scores.
    """
    return [
        benchmark_details(
            name,
            entries,
            report.coverage[name].units,
            partial(_metrics, datasets[name].benchmark, questions[name]),
            _facts(datasets[name]),
            report.ns[-1],
            aggregations,
        )
        for name, entries in candidates.items()
    ]


def _facts(dataset: BestOfNDataset) -> BenchmarkFacts:
    benchmark = dataset.benchmark
    return BenchmarkFacts(
        split=benchmark.split,
        rules=tuple(dataset.rules),
        official_differences=benchmark.official_differences,
        vlmevalkit_differences=benchmark.vlmevalkit_differences,
        released_questions=benchmark.release.questions,
        mismatches=tuple(benchmark.mismatches),
        excluded=benchmark.excluded,
    )


def _metrics(benchmark: Benchmark, questions: Sequence[BenchmarkQuestion], right: np.ndarray) -> dict[str, float]:
    headline = float(benchmark.unit_scores(questions, right).mean())
    return {benchmark.headline: headline} | benchmark.secondary_metrics(questions, right)
