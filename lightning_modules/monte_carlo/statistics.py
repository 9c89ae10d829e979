"""Statistics of annotated rows by source, read as a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datamodules.storage.files import parse_json_line, read_lines
from lightning_modules.monte_carlo.search import violations


@dataclass
class Statistics:
    """Of the rows of a source, or of all.

    Attributes:
        rows: Solutions.
        questions: Prompts; rows of a prompt stand together.
        steps: Steps.
        scored: Steps with a score, inferred ones included.
        wrong: Those with a score of 0.
        inferred: Steps that binary search has inferred.
        words: Words of the steps.
        continuations: Continuations that count, one of a finished solution not included.
        right: Those that reach the gold answer.
        cut: Those that were cut at the limit of new tokens.
        unparsed: Those that ended by themselves without a readable answer.
        right_solutions: Sum of what is known of solutions: 1 or 0 of one with a verdict, else the share of right ones
            among the solutions of its question.
        known_solutions: Solutions of which that is known.
        cut_solutions: Solutions that were cut.
        not_monotone: Solutions with a right step behind a wrong one.
        finished: Solutions whose last step is the one continuation that it has.
    """

    rows: int = 0
    questions: int = 0
    steps: int = 0
    scored: int = 0
    wrong: int = 0
    inferred: int = 0
    words: int = 0
    continuations: int = 0
    right: int = 0
    cut: int = 0
    unparsed: int = 0
    right_solutions: float = 0.0
    known_solutions: int = 0
    cut_solutions: int = 0
    not_monotone: int = 0
    finished: int = 0

    def add(self, row: Mapping[str, Any], *, is_new_question: bool) -> None:
        """Count a row."""
        steps = row["steps_with_score"]
        self.rows += 1
        self.questions += is_new_question
        self.steps += len(steps)
        self.words += sum(len(step["step"].split()) for step in steps)
        is_right = {number: step["score"] > 0 for number, step in enumerate(steps) if step.get("num_mc_total") != 0}
        self.scored += len(is_right)
        self.wrong += len(is_right) - sum(is_right.values())
        self.inferred += sum(bool(step.get("is_inferred")) for step in steps)
        self.not_monotone += violations(is_right) > 0
        self.cut_solutions += bool(row.get("response_cut"))
        last = steps[-1].get("num_mc_total") if steps else None
        self.finished += last == 1
        verdict = steps[-1]["score"] if last == 1 else row.get("question_accuracy")
        if verdict is not None:
            self.known_solutions += 1
            self.right_solutions += verdict
        for step in steps[:-1] if last == 1 else steps:
            self.continuations += step.get("num_mc_total") or 0
            self.right += step.get("num_mc_correct") or 0
            self.cut += step.get("num_mc_cut", 0)
            self.unparsed += step.get("num_mc_unparsed", 0)

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def statistics_of(path: Path) -> dict[str, Statistics]:
    """The statistics of each source of a JSONL file.

    Raises:
        ValueError: If a line is no annotated row; names file and line.
    """
    found: dict[str, Statistics] = {}
    question = None
    for where, line in read_lines(path):
        row = parse_json_line(line, where)
        before, question = question, str(row.get("id", where)).rpartition("/")[0]
        try:
            of_source = found.setdefault(str(row.get("source", path.stem)), Statistics())
            of_source.add(row, is_new_question=question != before)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where}: not an annotated row ({type(error).__name__}: {error})") from error
    return found
