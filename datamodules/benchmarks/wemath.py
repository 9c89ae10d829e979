"""We-Math, testmini: multi-step questions together with the one-step questions that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from datamodules.answers.extract import extract_final_answer
from datamodules.benchmarks.base import (
    Benchmark,
    BenchmarkQuestion,
    Grade,
    as_scores,
    grade_option,
    options_of_columns,
    with_options,
)
from datamodules.benchmarks.table import LazyImages, TableRow

STEP_COUNTS = {"2steps": 2, "3steps": 3}


@dataclass(frozen=True)
class Group:
    """Rows of one group.

    Attributes:
        steps: Row numbers of the one-step questions.
        multi: Row number of the multi-step question.
    """

    steps: list[int]
    multi: int


class WeMath(Benchmark):
    """Option letters; the headline is Score (Strict): mastered groups plus half of the inadequately generalised ones.

    Of a group with one-step verdicts s and multi-step verdict m: complete mastery (CM) is all s and m, inadequate
    generalisation (IG) all s but not m, insufficient knowledge (IK) not all s and not m, rote memorisation (RM) m but
    not all s. The loose score counts m with any s as mastery.
    """

    name: ClassVar[str] = "WeMath"
    table: ClassVar[str] = "WeMath.tsv"
    headline: ClassVar[str] = "score_strict"
    required_columns: ClassVar[tuple[str, ...]] = ("question", "answer", "ID", "key", "A", "B")
    order: ClassVar[int] = 6

    def parse_row(self, row: TableRow, images: LazyImages) -> BenchmarkQuestion:
        """A row, with its group ``ID`` and its ``key`` (``2steps_1``, ..., ``3steps_multi``) in the metadata."""
        key = row.require("key").strip()
        prefix, _, part = key.partition("_")
        known = [*map(str, range(1, STEP_COUNTS.get(prefix, 0) + 1)), "multi"]
        if prefix not in STEP_COUNTS or part not in known:
            raise ValueError(
                f"{row.where}: column 'key' is {key!r}; expected for instance '2steps_1' or '3steps_multi'"
            )
        options = options_of_columns(row)
        question = row.require("question")
        if row.get("hint"):
            question = f"{row.get('hint')}\n{question}"
        return BenchmarkQuestion(
            benchmark=self.name,
            question_id=row.get("index"),
            question=with_options(question, options),
            images=images,
            gold=(row.require("answer").strip(),),
            options=options,
            answer_type="letter",
            metadata={"ID": row.require("ID"), "key": key, "knowledge concept": row.get("knowledge concept")},
        )

    def grade(self, question: BenchmarkQuestion, response: str) -> Grade:
        """The letter or the text of the right option."""
        return grade_option(question, extract_final_answer(response))

    def complete_units(self, questions: Sequence[BenchmarkQuestion]) -> np.ndarray:
        """Whether a question's group is there with each of its keys once: (Q,) bool."""
        complete = np.zeros(len(questions), dtype=bool)
        for group in _groups(questions):
            complete[[*group.steps, group.multi]] = True
        return complete

    def unit_scores(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> np.ndarray:
        """CM + IG / 2 of every group, strict: (U,) or (U, M), groups in order of first appearance."""
        scores = as_scores(questions, correct)
        complete = self.complete_units(questions)
        if not complete.all():
            place = questions[int(np.flatnonzero(~complete)[0])].metadata
            raise ValueError(f"WeMath: group (ID) {place['ID']!r} is incomplete; filter by complete_units first")
        units = [scores[group.steps].prod(axis=0) * (0.5 + 0.5 * scores[group.multi]) for group in _groups(questions)]
        return np.stack(units) if units else scores[:0]

    def secondary_metrics(self, questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> dict[str, float]:
        """Loose score, shares of the four cases, accuracy of one-, two- and three-step questions and of rows."""
        scores = as_scores(questions, correct)
        metrics = {"row_accuracy": float(scores.mean())} if len(scores) else {}
        keys = [question.metadata["key"] for question in questions]
        for name, chosen in (
            ("S1", [not key.endswith("multi") for key in keys]),
            ("S2", [key == "2steps_multi" for key in keys]),
            ("S3", [key == "3steps_multi" for key in keys]),
        ):
            if any(chosen):
                metrics[name] = float(scores[np.array(chosen)].mean())
        groups = _groups(questions)
        if not groups:
            return metrics
        every = np.array([scores[group.steps].prod() for group in groups])
        some = np.array([1 - (1 - scores[group.steps]).prod() for group in groups])
        multi = scores[[group.multi for group in groups]]
        inadequate = float((every * (1 - multi)).mean())
        metrics |= {"IG": inadequate, "IK": float(((1 - every) * (1 - multi)).mean())}
        for name, mastering in (("strict", every), ("loose", some)):
            mastery, rote = float((mastering * multi).mean()), float(((1 - mastering) * multi).mean())
            metrics |= {f"CM_{name}": mastery, f"RM_{name}": rote, f"score_{name}": mastery + 0.5 * inadequate}
            if mastery + rote > 0:
                metrics[f"RM_rate_{name}"] = rote / (mastery + rote)
        return metrics


def _groups(questions: Sequence[BenchmarkQuestion]) -> list[Group]:
    """The complete groups, in order of first appearance; two- and three-step groups may share an ID."""
    rows: dict[tuple[str, str], dict[str, list[int]]] = {}
    for number, question in enumerate(questions):
        prefix, _, part = question.metadata["key"].partition("_")
        rows.setdefault((prefix, question.metadata["ID"]), {}).setdefault(part, []).append(number)
    groups = []
    for (prefix, _), parts in rows.items():
        steps = [parts.get(str(step), []) for step in range(1, STEP_COUNTS[prefix] + 1)]
        multi = parts.get("multi", [])
        if all(len(found) == 1 for found in [*steps, multi]):
            groups.append(Group([found[0] for found in steps], multi[0]))
    return groups
