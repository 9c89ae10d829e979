"""What a benchmark is: questions to read, rules that grade an answer, and units that its headline averages over."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

import numpy as np

from datamodules.benchmarks.grading import as_scores
from datamodules.benchmarks.question import IMAGE_PLACEHOLDER, BenchmarkQuestion, Excluded, Grade, Rules
from datamodules.benchmarks.reading import BenchmarkReader
from datamodules.benchmarks.reading_options import BenchmarkOptions
from datamodules.conversation.instructions import POLICY_INSTRUCTION
from datamodules.storage.bad_rows import MAX_BAD_ROWS, OnBadRow

__all__ = [
    "IMAGE_PLACEHOLDER",
    "POLICY_INSTRUCTION",
    "Benchmark",
    "BenchmarkOptions",
    "BenchmarkQuestion",
    "Excluded",
    "Grade",
    "Rules",
    "with_instruction",
]


class Benchmark(BenchmarkReader):
    """Reads, prompts, grades and aggregates one benchmark.

    Attributes:
        headline: Name of the headline metric.
        official_differences: What the official rules do differently from ours, by name.
        vlmevalkit_differences: What VLMEvalKit does differently from the authors, by name; empty where it does the same
            or does not have the benchmark, and its rules are the official ones.
        rules_versions: The number of each kind of rules. Verdicts on disk are graded anew when it changes, so raise it
            with every change that moves a verdict (``tests/datamodules/benchmarks/test_rules_versions.py``).
        order: Place in reports; those of the same place follow the alphabet.

    Args:
        table: See :class:`BenchmarkOptions`, as for the others.
        split: Likewise.
        rules: By which responses are graded.
        allow_incomplete: Likewise.
        on_bad_row: Likewise.
        on_mismatch: Likewise.
        max_bad_rows: Likewise.

    Raises:
        ValueError: If the benchmark has no such split, or there are no such rules.
    """

    headline: ClassVar[str] = "accuracy"
    official_differences: ClassVar[Mapping[str, str]] = {}
    vlmevalkit_differences: ClassVar[Mapping[str, str]] = {}
    rules_versions: ClassVar[Mapping[Rules, int]] = {"ours": 3, "official": 2, "vlmevalkit": 2}
    order: ClassVar[int] = 100

    def __init__(
        self,
        table: str | None = None,
        split: str | None = None,
        rules: Rules = "ours",
        allow_incomplete: bool = False,
        on_bad_row: OnBadRow = "skip",
        on_mismatch: Literal["warn", "error", "ignore"] = "warn",
        max_bad_rows: float = MAX_BAD_ROWS,
    ) -> None:
        super().__init__(table, split, allow_incomplete, on_bad_row, on_mismatch, max_bad_rows)
        if rules not in get_args(Rules):
            raise ValueError(f"rules must be one of {', '.join(get_args(Rules))}, got {rules!r}")
        self.rules = rules

    # ---------------------------------------------------------------- prompt

    def policy_prompt(self, question: BenchmarkQuestion, instruction: str | None = None) -> str:
        """What the policy reads: the question, and on a line of its own how to answer it.

        Args:
            question: Of this benchmark.
            instruction: By default the request for a boxed answer reached step by step; empty for the question alone.
        """
        return with_instruction(question.question, POLICY_INSTRUCTION if instruction is None else instruction)

    # ----------------------------------------------------------------- grade

    def grade(self, question: BenchmarkQuestion, response: str, extraction: str | None = None) -> Grade:
        """Read the final answer of a response and judge it, by the rules that the benchmark was made with.

        Args:
            question: Of this benchmark.
            response: What the policy wrote.
            extraction: The answer that another tool, such as the authors' judge model, read from the response. The
                official rules judge it where the authors judge such an answer; the others do not look at it.
        """
        if self.rules == "official":
            if extraction is not None:
                return self.grade_extraction(question, response, extraction)
            return self.grade_officially(question, response)
        if self.rules == "vlmevalkit":
            return self.grade_as_vlmevalkit(question, response)
        return self.grade_by_our_rules(question, response)

    @abstractmethod
    def grade_by_our_rules(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Judge the final-answer cut by rules alone, without any guess."""

    def grade_officially(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Judge as the benchmark's authors do, as far as they do so by rules; see :attr:`official_differences`."""
        return self.grade_by_our_rules(question, response)

    def grade_extraction(self, question: BenchmarkQuestion, response: str, extraction: str) -> Grade:
        """Judge an answer that the authors' judge model extracted; by default the response is judged officially."""
        return self.grade_officially(question, response)

    def grade_as_vlmevalkit(self, question: BenchmarkQuestion, response: str) -> Grade:
        """Judge as VLMEvalKit does, our final-answer cut in place of its judge model's; officially by default."""
        return self.grade_officially(question, response)

    # ------------------------------------------------------------- aggregate

    def unit_scores(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> np.ndarray:
        """Score every unit; the headline is the mean over units. Here a unit is a question.

        Args:
            questions: Q questions.
            correct: (Q,) or (Q, M) verdicts, or probabilities of being right in [0, 1]; the M columns do not interact.

        Returns:
            (U,) or (U, M) float64 in [0, 1].

        Raises:
            ValueError: If the shapes differ or a unit is incomplete.
        """
        return as_scores(questions, correct)

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Other numbers that reports of this benchmark give.

        Args:
            questions: Q questions.
            correct: (Q,) bool or float in [0, 1].

        Returns:
            Name to value; a value that is undefined for these questions is left out.
        """
        return {}


def with_instruction(question: str, instruction: str) -> str:
    """The question, and the instruction on a line of its own; an empty instruction changes nothing."""
    return f"{question}\n{instruction}" if instruction else question
