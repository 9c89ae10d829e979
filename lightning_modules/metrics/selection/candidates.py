"""The N candidate answers of a question: scores, verdicts and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_modules.metrics.response_score import Aggregation, aggregate_step_scores


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
        critic_scores: N scores of each of some other critics, by name.
        lengths: N lengths of the responses, in words, or None.

    Raises:
        ValueError: If the fields disagree about N, or N is 0.
    """

    benchmark: str
    question_id: str
    step_scores: list[list[float]]
    is_correct: list[bool]
    answer_classes: list[int]
    outcome_scores: list[float] | None = None
    critic_scores: Mapping[str, list[float]] = field(default_factory=dict)
    lengths: list[int] | None = None

    def __post_init__(self) -> None:
        lengths = {
            "step_scores": len(self.step_scores),
            "is_correct": len(self.is_correct),
            "answer_classes": len(self.answer_classes),
        }
        if self.outcome_scores is not None:
            lengths["outcome_scores"] = len(self.outcome_scores)
        lengths |= {f"scores of {name}": len(scores) for name, scores in self.critic_scores.items()}
        if self.lengths is not None:
            lengths["lengths"] = len(self.lengths)
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
