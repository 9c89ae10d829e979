"""What the page shows: questions, each with its solutions and their steps. Every kind of input becomes these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_modules.metrics.selection.votes import majority_index

Picture = bytes | str | Path
"""Bytes of a file, its path, or the reference of a member of an archive."""


@dataclass
class Solution:
    """A solution with what is known of its S steps; lists of S values are empty where nothing is known.

    Attributes:
        name: Tells it from the others of its question, such as a sample index.
        steps: Their texts.
        scores: Step scores of the reward model.
        mc: Monte Carlo scores in [0, 1]; None for a step that was not sampled.
        counts: For each Monte Carlo score how many of how many continuations were right; None where not known.
        labels: Human labels: 1 correct, 0 neutral, -1 wrong.
        score: Response score.
        answer: The answer that was read from it; None if none could be read, or nobody tried.
        answer_class: Solutions of a class have equal answers; -1 for no answer, None where nobody compared them.
        is_right: The verdict; None where there is none.
    """

    name: str
    steps: Sequence[str]
    scores: Sequence[float] = ()
    mc: Sequence[float | None] = ()
    counts: Sequence[tuple[int, int] | None] = ()
    labels: Sequence[int] = ()
    score: float | None = None
    answer: str | None = None
    answer_class: int | None = None
    is_right: bool | None = None

    def as_json(self) -> dict[str, Any]:
        """Values of JSON; what is not known is left out."""
        values = vars(self) | {name: list(getattr(self, name)) for name in ("steps", "scores", "mc", "counts")}
        values["labels"] = list(self.labels)
        return {name: value for name, value in values.items() if value is not None and value != []}


@dataclass
class Question:
    """A question with its solutions.

    Attributes:
        benchmark: Where it comes from: a benchmark, VisualProcessBench, or the name of a file of annotations.
        source: A finer origin: the policy, or the dataset of the question.
        question_id: Unique within the benchmark.
        text: With ``<image>`` where pictures stand in it.
        gold: Accepted answers; none where they are not known.
        pictures: In their order.
        solutions: At least one.
        chosen: Index of the solution that a search has given; by default the model's pick follows from the scores.
    """

    benchmark: str
    source: str
    question_id: str
    text: str
    gold: Sequence[str]
    pictures: Sequence[Picture]
    solutions: list[Solution] = field(default_factory=list)
    chosen: int | None = None

    def picks(self) -> dict[str, int]:
        """Indices of the solutions that methods pick: ``model``, the best response score, and ``vote``, the majority.

        As in Best-of-N, the earlier solution wins a tie. A method that the question has no data for is left out.
        """
        if self.chosen is not None:
            return {"model": self.chosen}
        found: dict[str, int] = {}
        scores = [solution.score for solution in self.solutions]
        classes = [solution.answer_class for solution in self.solutions]
        known = [score for score in scores if score is not None]
        if len(known) == len(scores):
            found["model"] = known.index(max(known))
        voting = [each for each in classes if each is not None]
        if len(voting) == len(classes):
            found["vote"] = majority_index(voting)
        return found

    def as_json(self, pictures: Sequence[int]) -> dict[str, Any]:
        """Values of JSON.

        Args:
            pictures: Numbers of the question's pictures in the page.
        """
        return {
            "benchmark": self.benchmark,
            "source": self.source,
            "id": self.question_id,
            "text": self.text,
            "gold": list(self.gold),
            "pictures": list(pictures),
            "picks": self.picks(),
            "solutions": [solution.as_json() for solution in self.solutions],
        }
