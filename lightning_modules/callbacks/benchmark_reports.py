"""The benchmarks behind a Best-of-N report: their datasets, whole units and secondary metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.batching.ranks import digest_of
from datamodules.benchmarks import Benchmark, BenchmarkQuestion, Rules
from datamodules.best_of_n import BestOfNDataset
from lightning_modules.metrics.benchmark_details import BenchmarkDetails, BenchmarkFacts, benchmark_details
from lightning_modules.metrics.best_of_n import BestOfNReport
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.metrics.selection.candidates import QuestionCandidates


def benchmark_datasets(dataloaders: Any) -> dict[str, BestOfNDataset]:
    """The benchmarks' datasets among those of the dataloaders, by name of the benchmark, in order."""
    loaders = dataloaders if isinstance(dataloaders, Sequence) else [dataloaders]
    datasets = [loader.dataset for loader in loaders]
    return {dataset.benchmark.name: dataset for dataset in datasets if isinstance(dataset, BestOfNDataset)}


def whole_units(
    benchmark: Benchmark, questions: Sequence[BenchmarkQuestion], entries: Sequence[QuestionCandidates]
) -> tuple[list[QuestionCandidates], list[BenchmarkQuestion]]:
    """Entries and their questions, without those whose unit was evaluated in part only."""
    by_id = {question.question_id: question for question in questions}
    found = [by_id[entry.question_id] for entry in entries]
    whole = np.asarray(benchmark.complete_units(found), dtype=bool)
    if not whole.all():
        rank_zero_warn(
            f"{benchmark.name}: {int((~whole).sum())} of {len(whole)} questions are left out of the report, since the "
            "rest of their unit was not evaluated (limited batches, or no rollouts)"
        )
    kept = [entry for entry, is_whole in zip(entries, whole, strict=True) if is_whole]
    return kept, [question for question, is_whole in zip(found, whole, strict=True) if is_whole]


def details_of_benchmarks(
    report: BestOfNReport,
    candidates: Mapping[str, Sequence[QuestionCandidates]],
    questions: Mapping[str, Sequence[BenchmarkQuestion]],
    datasets: Mapping[str, BestOfNDataset],
    aggregations: Sequence[Aggregation],
    least_score: float,
) -> list[BenchmarkDetails]:
    """Headline and secondary metrics of every benchmark at the largest N.

    Args:
        report: Best-of-N report on the same candidates.
        candidates: Candidates by benchmark; complete units only.
        questions: Questions of these candidates, in the same order.
        datasets: Datasets of the candidates.
        aggregations: Ways to aggregate step scores.
        least_score: The least score that the reward model can give.
    """
    return [
        benchmark_details(
            name,
            entries,
            report.coverage[name].units,
            partial(_metrics, datasets[name].benchmark, questions[name]),
            _facts(datasets[name], questions[name]),
            report.ns[-1],
            aggregations,
            least_score,
            report.critic,
        )
        for name, entries in candidates.items()
    ]


def _facts(dataset: BestOfNDataset, questions: Sequence[BenchmarkQuestion]) -> BenchmarkFacts:
    """What was read and how it was graded, with the questions that were scored."""
    benchmark = dataset.benchmark
    rollouts = [rollout for group in dataset.rollouts for rollout in group]
    texts = (text for each in questions for text in (each.question_id, each.question, *each.gold))
    return BenchmarkFacts(
        split=benchmark.split,
        rules=tuple(dataset.rules),
        official_differences=benchmark.official_differences,
        vlmevalkit_differences=benchmark.vlmevalkit_differences,
        released_questions=benchmark.release.questions,
        mismatches=tuple(benchmark.mismatches),
        excluded=benchmark.excluded,
        rules_versions={name: benchmark.rules_versions[name] for name in get_args(Rules) if name in dataset.rules},
        questions_digest=digest_of(texts),
        policies=tuple(sorted({rollout.policy for rollout in rollouts})),
        temperatures=tuple(
            sorted({rollout.temperature for rollout in rollouts}, key=lambda value: -1.0 if value is None else value)
        ),
    )


def _metrics(benchmark: Benchmark, questions: Sequence[BenchmarkQuestion], right: np.ndarray) -> dict[str, float]:
    headline = float(benchmark.unit_scores(questions, right).mean())
    return {benchmark.headline: headline} | benchmark.secondary_metrics(questions, right)
