"""Ways to pick one of N candidate answers, and their accuracies.

Q questions, N candidates each, M methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_modules.metrics.bootstrap import Array
from lightning_modules.metrics.response_score import Aggregation, aggregate_step_scores

PASS_AT_1 = "pass_at_1"  # noqa: S105
RANDOM_CHOICE = "random_choice"
SELF_CONSISTENCY = "self_consistency"
OUTCOME = "outcome"
PASS_AT_N = "pass_at_n"  # noqa: S105


@dataclass(frozen=True)
class QuestionCandidates:
    """The N candidate answers to one question.

    Attributes:
        benchmark: Name of the benchmark.
        question_id: Unique within the benchmark.
        step_scores: N lists of step scores.
        is_correct: N verdicts.
        answer_classes: N class numbers; candidates of a class have equal final answers, -1 means no answer.
        outcome_scores: N scores of an outcome reward model, or None.

    Raises:
        ValueError: If the fields disagree about N, or N is 0.
    """

    benchmark: str
    question_id: str
    step_scores: list[list[float]]
    is_correct: list[bool]
    answer_classes: list[int]
    outcome_scores: list[float] | None = None

    def __post_init__(self) -> None:
        lengths = {
            "step_scores": len(self.step_scores),
            "is_correct": len(self.is_correct),
            "answer_classes": len(self.answer_classes),
        }
        if self.outcome_scores is not None:
            lengths["outcome_scores"] = len(self.outcome_scores)
        if len(set(lengths.values())) > 1 or not self.is_correct:
            raise ValueError(f"{self.where}: expected N >= 1 values in every field, got {lengths}")

    @property
    def where(self) -> str:
        """Name of the question, for error messages."""
        return f"{self.benchmark} question {self.question_id!r}"

    def response_scores(self, how: Aggregation) -> list[float]:
        """N response scores.

        Raises:
            ValueError: If a candidate has no step or a score is not finite; names the question and the candidate.
        """
        scores = []
        for index, steps in enumerate(self.step_scores):
            try:
                scores.append(aggregate_step_scores(steps, how))
            except ValueError as error:
                raise ValueError(f"{self.where}, candidate {index}: {error}") from error
        return scores


def process_method(how: Aggregation) -> str:
    """Name of the method that picks the candidate with the best aggregated step scores."""
    return f"prm_{how}"


def method_names(aggregations: Sequence[Aggregation], with_outcome: bool) -> list[str]:
    """The M methods in the order of the columns of :func:`method_accuracies`."""
    outcome = [OUTCOME] if with_outcome else []
    process = [process_method(how) for how in aggregations]
    return [PASS_AT_1, RANDOM_CHOICE, SELF_CONSISTENCY, *outcome, *process, PASS_AT_N]


def majority_index(answer_classes: Sequence[int]) -> int:
    """The first candidate with the most frequent answer.

    Candidates without an answer (-1) have no vote. In a tie the answer given first wins. If no candidate has an answer,
    the first candidate is taken.
    """
    votes: dict[int, int] = {}
    for answer in answer_classes:
        if answer >= 0:
            votes[answer] = votes.get(answer, 0) + 1
    if not votes:
        return 0
    # max() keeps the first of equals, and a dictionary keeps the order of first appearance.
    return list(answer_classes).index(max(votes, key=lambda answer: votes[answer]))


def method_accuracies(
    questions: Sequence[QuestionCandidates], ns: Sequence[int], aggregations: Sequence[Aggregation]
) -> Array:
    """Accuracy of each method on each question with the first n candidates.

    Methods that pick one candidate get 0 or 1; in a tie of scores the earlier candidate wins. `pass_at_1` is the mean
    over all N candidates, whatever n is. `random_choice` is the mean over the first n, the expected accuracy of a
    random pick. `pass_at_n` is 1 if any of the first n is correct.

    Args:
        questions: Q questions; each with at least max(ns) candidates, and outcome scores for all or for none.
        ns: Numbers of candidates.
        aggregations: Ways to aggregate the process reward model's step scores.

    Returns:
        (Q, len(ns), M) values in [0, 1].

    Raises:
        ValueError: If a question has too few candidates, lacks outcome scores, or has a score that is not finite.
    """
    most = max(ns)
    with_outcome = questions[0].outcome_scores is not None
    for question in questions:
        if len(question.is_correct) < most:
            raise ValueError(f"{question.where}: {len(question.is_correct)} candidates, Best-of-{most} needs {most}")
        if (question.outcome_scores is not None) != with_outcome:
            raise ValueError(f"{question.where}: outcome scores must be given for all questions or for none")
        if question.outcome_scores is not None and not np.isfinite(question.outcome_scores).all():
            raise ValueError(f"{question.where}: outcome scores must be finite, got {question.outcome_scores}")
    correct = np.array([question.is_correct[:most] for question in questions], dtype=np.float64)
    single = np.array([np.mean(question.is_correct) for question in questions])
    rankings = [np.array([question.response_scores(how)[:most] for question in questions]) for how in aggregations]
    if with_outcome:
        rankings.insert(0, np.array([(question.outcome_scores or [])[:most] for question in questions]))
    rows = np.arange(len(questions))
    by_n = []
    for n in ns:
        first = correct[:, :n]
        voted = np.array([majority_index(question.answer_classes[:n]) for question in questions])
        picks = [voted, *(ranking[:, :n].argmax(axis=1) for ranking in rankings)]
        columns = [single, first.mean(axis=1), *(first[rows, pick] for pick in picks), first.max(axis=1)]
        by_n.append(np.stack(columns, axis=1))
    return np.stack(by_n, axis=1)
