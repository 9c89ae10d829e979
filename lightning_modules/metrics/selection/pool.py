"""Candidates of Q questions as arrays, for methods to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.bootstrap import Array
from lightning_modules.metrics.response_score import Aggregation
from lightning_modules.metrics.selection.candidates import QuestionCandidates
from lightning_modules.metrics.selection.subsets import Subsets

OUTCOME = "outcome"


def process_method(how: Aggregation) -> str:
    """Name of the method that picks the candidate with the best aggregated step scores, and of these scores."""
    return f"prm_{how}"


def critic_method(name: str) -> str:
    """Name of the method that picks the candidate with the best score of another critic, and of these scores."""
    return f"critic_{name}"


@dataclass(frozen=True)
class CandidatePool:
    """N candidates of each of Q questions.

    Attributes:
        correct: (Q, N) verdicts, 0 or 1.
        single: (Q,) mean verdict over all candidates, also those beyond the N-th.
        answer_classes: (Q, N) class numbers of equal final answers, -1 for none.
        scores: (Q, N) response scores, by method; see :func:`process_method` and :func:`critic_method`.
        primary: Name of the scores that stand for the reward model.
        least_score: The least score that the reward model can give.
        lengths: (Q, N) lengths of the responses, or None.
        subsets: What methods choose from where n < N.
    """

    correct: Array
    single: Array
    answer_classes: NDArray[np.int64]
    scores: dict[str, Array]
    primary: str
    least_score: float
    lengths: Array | None
    subsets: Subsets

    @property
    def count(self) -> int:
        """N."""
        return self.correct.shape[1]


def candidate_pool(
    questions: Sequence[QuestionCandidates],
    count: int,
    aggregations: Sequence[Aggregation],
    subsets: Subsets = "all",
    least_score: float = 0.0,
) -> CandidatePool:
    """The first candidates of every question.

    Args:
        questions: Q questions with at least ``count`` candidates each, and the same critics.
        count: N.
        aggregations: Ways to aggregate the reward model's step scores; the first one is the primary one.
        subsets: See :class:`CandidatePool`.
        least_score: See :class:`CandidatePool`.

    Raises:
        ValueError: If a question has too few candidates, lacks a critic's scores or lengths that others have, or has a
            score that is not finite; names the question.
    """
    first = questions[0]
    for question in questions:
        if len(question.is_correct) < count:
            raise ValueError(f"{question.where}: {len(question.is_correct)} candidates, Best-of-{count} needs {count}")
        if (question.outcome_scores is None) != (first.outcome_scores is None):
            raise ValueError(f"{question.where}: outcome scores must be given for all questions or for none")
        if set(question.critic_scores) != set(first.critic_scores):
            raise ValueError(f"{question.where}: scores of a critic must be given for all questions or for none")
        if (question.lengths is None) != (first.lengths is None):
            raise ValueError(f"{question.where}: lengths must be given for all questions or for none")
    scores = {}
    if first.outcome_scores is not None:
        scores[OUTCOME] = _finite(questions, [question.outcome_scores or [] for question in questions], "outcome")
    for name in first.critic_scores:
        given = [question.critic_scores[name] for question in questions]
        scores[critic_method(name)] = _finite(questions, given, name)
    for how in aggregations:
        scores[process_method(how)] = np.array([question.response_scores(how)[:count] for question in questions])
    return CandidatePool(
        correct=np.array([question.is_correct[:count] for question in questions], dtype=np.float64),
        single=np.array([np.mean(question.is_correct) for question in questions]),
        answer_classes=np.array([question.answer_classes[:count] for question in questions], dtype=np.int64),
        scores={name: values[:, :count] for name, values in scores.items()},
        primary=process_method(aggregations[0]),
        least_score=least_score,
        lengths=None
        if first.lengths is None
        else np.array([(q.lengths or [])[:count] for q in questions], dtype=float),
        subsets=subsets,
    )


def _finite(questions: Sequence[QuestionCandidates], scores: Sequence[Sequence[float]], name: str) -> Array:
    for question, values in zip(questions, scores, strict=True):
        if not np.isfinite(values).all():
            raise ValueError(f"{question.where}: {name} scores must be finite, got {list(values)}")
    fewest = min(map(len, scores))
    return np.array([values[:fewest] for values in scores], dtype=np.float64)
