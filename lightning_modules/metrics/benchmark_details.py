"""Secondary metrics of a benchmark, for each way to pick one of N candidates.

Q questions, M methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lightning_modules.metrics.bootstrap import Array
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.selection.methods import method_accuracies, method_label, methods_of
from lightning_modules.metrics.selection.pool import candidate_pool
from lightning_modules.metrics.table import Cell, Table

MetricScorer = Callable[[Array], Mapping[str, float]]
"""Turns per-question accuracies (Q,) into named metrics in [0, 1]."""


@dataclass(frozen=True)
class BenchmarkFacts:
    """What was read and how it was graded.

    Attributes:
        split: Name of the split.
        rules: Names of the rules behind the verdicts.
        official_differences: What the official rules do differently from ours, by name.
        vlmevalkit_differences: What VLMEvalKit does differently from the official rules, by name.
        released_questions: Scored questions of the split as released.
        mismatches: Differences of the questions from the release, in words.
        excluded: Reasons why rows of the table are not scored, with their numbers.
        rules_versions: The number of each of ``rules``, by name; those of no known rules are left out.
        questions_digest: Of names, texts and gold answers of the questions; tells whether two runs had the same ones.
        policies: Names of the models that wrote the candidates.
        temperatures: Of their sampling; None where it is not known.
    """

    split: str
    rules: tuple[str, ...] = ("ours",)
    official_differences: Mapping[str, str] = field(default_factory=dict)
    vlmevalkit_differences: Mapping[str, str] = field(default_factory=dict)
    released_questions: int = 0
    mismatches: tuple[str, ...] = ()
    excluded: Mapping[str, int] = field(default_factory=dict)
    rules_versions: Mapping[str, int] = field(default_factory=dict)
    questions_digest: str = ""
    policies: tuple[str, ...] = ()
    temperatures: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class BenchmarkDetails:
    """The numbers of one benchmark.

    Attributes:
        name: Of the benchmark.
        n: Number of candidates that methods pick from.
        questions: Number of questions.
        units: Number of units that the headline averages over.
        facts: What was read and how it was graded.
        metrics: Method to metric to value. ``unparsed_share`` is the share of picked responses without a readable final
            answer. Values of a method that stands for several responses (Pass@1) are expectations.
        critic: What the reward model is, e.g. "PRM" or "ORM".
    """

    name: str
    n: int
    questions: int
    units: int
    facts: BenchmarkFacts
    metrics: dict[str, dict[str, float]]
    critic: str = "PRM"

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries for JSON."""
        return asdict(self)

    def to_table(self, methods: Sequence[str]) -> Table:
        """Metrics by the given methods, in percent."""
        methods = [method for method in methods if method in self.metrics]
        names = list(dict.fromkeys(name for method in methods for name in self.metrics[method]))
        rows = [[Cell(name), *(Cell(_percent(self.metrics[method], name)) for method in methods)] for name in names]
        header = ["Metric", *(method_label(method, self.n, self.critic) for method in methods)]
        return Table(f"{self.name}, split {self.facts.split}, N = {self.n} (%)", header, rows, self._note())

    def _note(self) -> str:
        facts = self.facts
        parts = [
            f"{self.questions} questions, {self.units} units; the release has {facts.released_questions} questions."
        ]
        if facts.mismatches:
            parts.append(f"Not the released split: {'; '.join(facts.mismatches)}.")
        if facts.excluded:
            parts.append(f"Rows left out: {', '.join(f'{n} {reason}' for reason, n in facts.excluded.items())}.")
        differences = ", ".join(facts.official_differences) or "nothing"
        parts.append(f"Rules: {' and '.join(facts.rules)}. The official rules differ from ours in: {differences}.")
        if "vlmevalkit" in facts.rules:
            others = ", ".join(facts.vlmevalkit_differences) or "nothing"
            parts.append(f"Those of VLMEvalKit differ from the official ones in: {others}.")
        return " ".join(parts)


def benchmark_details(
    name: str,
    questions: Sequence[QuestionCandidates],
    units: int,
    score: MetricScorer,
    facts: BenchmarkFacts,
    n: int,
    aggregations: Sequence[Aggregation],
    least_score: float = 0.0,
    critic: str = "PRM",
) -> BenchmarkDetails:
    """Compute the metrics of the responses that each method picks from the first n candidates.

    Args:
        name: Of the benchmark.
        questions: Q questions with their candidates.
        units: Number of units.
        score: Computes the benchmark's metrics, the headline among them, from (Q,) accuracies.
        facts: What was read and how it was graded.
        n: Number of candidates.
        aggregations: Ways to aggregate step scores.
        least_score: The least score that the reward model can give.
        critic: What the reward model is, e.g. "PRM" or "ORM".

    Raises:
        ValueError: See :func:`lightning_modules.metrics.selection.pool.candidate_pool`.
    """
    pool = candidate_pool(questions, n, aggregations, least_score=least_score)
    right = method_accuracies(pool, [n])[:, 0]
    # The same picks, looked at for whether they give an answer at all.
    is_read = [[answer >= 0 for answer in question.answer_classes] for question in questions]
    single = np.array([np.mean(of_question) for of_question in is_read])
    answered = replace(pool, correct=(pool.answer_classes >= 0).astype(np.float64), single=single)
    parsed = method_accuracies(answered, [n])[:, 0]
    metrics = {
        method.name: {**score(right[:, column]), "unparsed_share": float(1 - parsed[:, column].mean())}
        for column, method in enumerate(methods_of(pool))
    }
    return BenchmarkDetails(name, n, len(questions), units, facts, metrics, critic)


def _percent(metrics: Mapping[str, float], name: str) -> str:
    return f"{100 * metrics[name]:.1f}" if name in metrics else "-"
