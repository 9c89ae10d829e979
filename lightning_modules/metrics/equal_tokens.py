"""Search beside Best-of-N and self-consistency that sample as many tokens.

Q questions, N candidates each, U units, S searches, M methods, K = S * (1 + M) columns, R resamples.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lightning_modules.metrics.best_of_n import ALL_QUESTIONS, CONFIDENCE, OVERALL, Estimate, UnitScorer
from lightning_modules.metrics.bootstrap import Array, percentile_interval, resampled_means
from lightning_modules.metrics.selection.methods import SELF_CONSISTENCY, method_accuracies, methods_of
from lightning_modules.metrics.selection.pool import CandidatePool
from lightning_modules.metrics.table import Cell, Table

SEARCH, BEST_OF_N = "search", "best_of_n"
METHODS = (BEST_OF_N, SELF_CONSISTENCY)


@dataclass(frozen=True)
class SearchedBenchmark:
    """What searches have found on a benchmark, and candidates of the same questions.

    Attributes:
        correct: (Q, S) whether the solution that each search has chosen is right, 0 or 1.
        sampled_tokens: (Q, S) tokens that each search has sampled.
        pool: N candidates of each question, with a critic's scores.
        candidate_tokens: (Q, N) tokens of each candidate.
        unit_scorer: From accuracies of the questions to those of units.
    """

    correct: Array
    sampled_tokens: Array
    pool: CandidatePool
    candidate_tokens: Array
    unit_scorer: UnitScorer


def equal_numbers(sampled_tokens: Array, candidate_tokens: Array) -> Array:
    """How many candidates of each question have as many tokens as a search, on average over all subsets of so many.

    Args:
        sampled_tokens: (Q, S).
        candidate_tokens: (Q, N).

    Returns:
        (Q, S) numbers of at least 1, not rounded. They may exceed N.
    """
    return np.maximum(1.0, sampled_tokens / candidate_tokens.mean(axis=1, keepdims=True))


def accuracies_at(pool: CandidatePool, numbers: Array) -> Array:
    """Accuracy of Best-of-n and self-consistency with numbers of candidates that need not be whole.

    Between two whole numbers the accuracy is that of taking the larger one as often as makes the mean number right.

    Args:
        pool: N candidates of each of Q questions; its primary scores are those of Best-of-N.
        numbers: (Q, S) of at least 1; those above N are taken for N.

    Returns:
        (Q, S, 2) in the order of :data:`METHODS`.
    """
    names = [method.name for method in methods_of(pool)]
    chosen = [names.index(pool.primary), names.index(SELF_CONSISTENCY)]
    numbers = np.minimum(numbers, pool.count)
    below = np.floor(numbers).astype(np.int64)
    above = np.minimum(below + 1, pool.count)
    ns = sorted({*below.ravel().tolist(), *above.ravel().tolist()})
    found = method_accuracies(pool, ns)[:, :, chosen]
    rows, share = np.arange(len(numbers))[:, None], (numbers - below)[..., None]
    low, high = (found[rows, np.searchsorted(ns, each)] for each in (below, above))
    # Rounding may lead a little above 1.
    return np.clip(low * (1 - share) + high * share, 0.0, 1.0)


@dataclass(frozen=True)
class EqualTokensReport:
    """Accuracies of searches, and of methods that sample as many tokens.

    Attributes:
        searches: Names of the searches.
        benchmarks: Names of the benchmarks.
        overall: Those of them that ``overall`` averages.
        accuracies: By (column, search, method): :data:`SEARCH` is the search itself; in [0, 1]. Columns are those of
            :class:`lightning_modules.metrics.best_of_n.BestOfNReport`.
        differences: By (column, search, method): the search minus the method, paired.
        tokens: By search: mean sampled tokens of a question.
        numbers: By search: mean number of candidates with as many tokens, as far as there are so many.
        short: By search: questions whose candidates have fewer tokens than the search.
    """

    searches: tuple[str, ...]
    benchmarks: tuple[str, ...]
    overall: tuple[str, ...]
    accuracies: dict[tuple[str, str, str], Estimate]
    differences: dict[tuple[str, str, str], Estimate]
    tokens: dict[str, float]
    numbers: dict[str, float]
    short: dict[str, int]

    @property
    def columns(self) -> tuple[str, ...]:
        """Benchmarks, then the two summaries."""
        return (*self.benchmarks, ALL_QUESTIONS, OVERALL)

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries for JSON."""
        nested: dict[str, Any] = {
            "benchmarks": list(self.benchmarks),
            "overall_of": list(self.overall),
            "accuracies": {},
            "differences": {},
        }
        for kind, values in (("accuracies", self.accuracies), ("differences", self.differences)):
            for (column, search, method), estimate in values.items():
                nested[kind].setdefault(search, {}).setdefault(method, {})[column] = asdict(estimate)
        sizes = {
            name: {"tokens": self.tokens[name], "candidates": self.numbers[name], "short_questions": self.short[name]}
            for name in self.searches
        }
        return nested | {"searches": sizes}

    def to_table(self) -> Table:
        """Accuracies in percent, and differences with intervals over all questions and overall."""
        rows = []
        for name in self.searches:
            labels = {
                SEARCH: f"{name} ({self.tokens[name]:.0f} tokens)",
                BEST_OF_N: f"Best-of-{self.numbers[name]:.1f}, same tokens",
                SELF_CONSISTENCY: f"Self-consistency of {self.numbers[name]:.1f}, same tokens",
            }
            for method, label in labels.items():
                values = [f"{100 * self.accuracies[column, name, method].value:.1f}" for column in self.columns]
                both = [
                    "" if method == SEARCH else _points(self.differences[column, name, method])
                    for column in (ALL_QUESTIONS, OVERALL)
                ]
                rows.append([Cell(label), *map(Cell, values), *map(Cell, both)])
        header = ["Method", *self.benchmarks, "All questions", "Overall", "Search − it, all questions", "overall"]
        short = [f"{name}: {count}" for name, count in self.short.items() if count]
        note = (
            "Accuracy (%). Best-of-n and self-consistency are means over subsets of as many candidates as have the "
            "tokens that the search has sampled for the question. Differences in percentage points with paired 95 % "
            "bootstrap intervals."
        )
        if short:
            note += f" Questions whose candidates have fewer tokens than the search: {', '.join(short)}."
        return Table("Search at equal sampled tokens", header, rows, note)


def _points(estimate: Estimate) -> str:
    value, low, high = (round(100 * each, 1) + 0.0 for each in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def equal_tokens_report(
    benchmarks: Mapping[str, SearchedBenchmark],
    searches: Sequence[str],
    overall: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> EqualTokensReport:
    """Compare searches with candidates, benchmark by benchmark and over all.

    Units are drawn as in :func:`lightning_modules.metrics.best_of_n.best_of_n_report`, for everything the same.

    Args:
        benchmarks: By name, at least one.
        searches: Names of the S searches.
        overall: Benchmarks that ``overall`` averages; all by default.
        resamples: R.
        seed: Of the bootstrap.

    Raises:
        ValueError: If there is nothing to compare.
    """
    if not benchmarks or not searches:
        raise ValueError("nothing to compare: give at least one search with questions of a benchmark")
    chosen = tuple(benchmarks if overall is None else overall)
    headlines, pooled, tokens, numbers = {}, [], [], []
    for name, found in benchmarks.items():
        given = equal_numbers(found.sampled_tokens, found.candidate_tokens)
        others = accuracies_at(found.pool, given)
        right = np.concatenate([found.correct[..., None], others], axis=2).reshape(len(given), -1)
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        units = np.asarray(found.unit_scorer(right), dtype=np.float64)
        headlines[name] = (units.mean(axis=0), resampled_means(units, resamples, generator))
        pooled.append((right.sum(axis=0), resampled_means(right, resamples, generator) * len(right)))
        tokens.append(found.sampled_tokens)
        numbers.append(np.stack([np.minimum(given, found.pool.count), given > found.pool.count]))
    spent, counts = np.concatenate(tokens), np.concatenate(numbers, axis=1)
    report = EqualTokensReport(
        tuple(searches),
        tuple(benchmarks),
        chosen,
        {},
        {},
        dict(zip(searches, spent.mean(axis=0).tolist(), strict=True)),
        dict(zip(searches, counts[0].mean(axis=0).tolist(), strict=True)),
        dict(zip(searches, counts[1].sum(axis=0).astype(int).tolist(), strict=True)),
    )
    for name in benchmarks:
        _add(report, name, *headlines[name])
    averaged = [headlines[name] for name in chosen]
    for column, parts, count in ((ALL_QUESTIONS, pooled, len(spent)), (OVERALL, averaged, len(averaged))):
        values, samples = zip(*parts, strict=True)
        _add(report, column, np.sum(values, axis=0) / count, np.sum(samples, axis=0) / count)
    return report


def _add(report: EqualTokensReport, column: str, values: Array, samples: Array) -> None:
    """Add a column from values (K,) and samples (R, K)."""
    shape = (len(report.searches), 1 + len(METHODS))
    value, sample = values.reshape(shape), samples.reshape(-1, *shape)
    for row, search in enumerate(report.searches):
        for place, method in enumerate((SEARCH, *METHODS)):
            low, high = percentile_interval(sample[:, row, place], CONFIDENCE)
            report.accuracies[column, search, method] = Estimate(float(value[row, place]), float(low), float(high))
            if place:
                low, high = percentile_interval(sample[:, row, 0] - sample[:, row, place], CONFIDENCE)
                difference = float(value[row, 0] - value[row, place])
                report.differences[column, search, method] = Estimate(difference, float(low), float(high))
