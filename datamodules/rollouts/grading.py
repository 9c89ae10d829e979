"""Verdicts on responses, and whether a verdict on disk still is what the rules say."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TypeVar, get_args

from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Rules
from datamodules.rollouts.records import Rollout, place

_LIBRARIES = ("math-verify", "sympy")

SomeRollout = TypeVar("SomeRollout", bound=Rollout)


@dataclass(frozen=True)
class ChangedVerdict:
    """A verdict on disk that the present rules do not give.

    Attributes:
        place: Of the rollout.
        question_id: Of its question.
        sample_index: Of the rollout.
        was_correct: The verdict on disk; the present one is the opposite.
        extracted_answer: What the present rules read from the response.
    """

    place: str
    question_id: str
    sample_index: int
    was_correct: bool
    extracted_answer: str | None

    def __str__(self) -> str:
        before, after = ("right", "wrong") if self.was_correct else ("wrong", "right")
        return (
            f"{self.place} (question {self.question_id!r}, sample {self.sample_index}): was {before}, is {after}, "
            f"answer {self.extracted_answer!r}"
        )


@functools.cache
def library_versions() -> tuple[str, ...]:
    """Names and versions of the libraries that verdicts depend on."""
    return tuple(f"{library} {version(library)}" for library in _LIBRARIES)


def question_digest(benchmark: Benchmark, question: BenchmarkQuestion) -> str:
    """A fingerprint of what a verdict on a question depends on beside the response: rules, gold answers, options.

    Rules count by their number, see :attr:`datamodules.benchmarks.base.Benchmark.rules_versions`.
    """
    fields = (
        library_versions(),
        benchmark.name,
        benchmark.rules,
        benchmark.rules_versions[benchmark.rules],
        question.question,
        list(question.gold),
        dict(question.options),
        question.answer_type,
        question.precision,
        dict(question.metadata),
    )
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def verdict_digest(question: str, response: str, extraction: str | None = None) -> str:
    """The fingerprint that a rollout keeps with its verdict.

    Args:
        question: As of :func:`question_digest`.
        response: The text that was graded.
        extraction: What another tool had read from it, if anything.
    """
    parts = [question, response] if extraction is None else [question, response, extraction]
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def regrade(
    benchmark: Benchmark,
    questions: Mapping[str, BenchmarkQuestion],
    rollouts: Iterable[SomeRollout],
    rules: Rules | None = None,
) -> tuple[list[SomeRollout], list[ChangedVerdict], int]:
    """Grade the rollouts whose verdicts do not come from the present rules, gold answers and response.

    Args:
        benchmark: Of the questions.
        questions: By id; must have those of all rollouts.
        rollouts: Of this benchmark.
        rules: To grade by; by default those that each rollout names, ours if it names none. Verdicts that name
            something else, such as a judge, then stay.

    Returns:
        The rollouts with present verdicts, those verdicts that changed, and how many rollouts had to be graded.
    """
    graders = {name: _with_rules(benchmark, name) for name in get_args(Rules)}
    digests: dict[tuple[str, str], str] = {}
    graded: list[SomeRollout] = []
    changed: list[ChangedVerdict] = []
    count = 0
    for rollout in rollouts:
        question, name = questions[rollout.question_id], rules or rollout.rules or "ours"
        if name not in graders:
            graded.append(rollout)
            continue
        key = (name, rollout.question_id)
        if key not in digests:
            digests[key] = question_digest(graders[name], question)
        digest = verdict_digest(digests[key], rollout.response, rollout.extraction)
        if rollout.verdict_digest == digest:
            graded.append(rollout)
            continue
        count += 1
        grade = graders[name].grade(question, rollout.response, rollout.extraction)
        if grade.is_correct != rollout.is_correct:
            changed.append(
                ChangedVerdict(
                    place(rollout),
                    rollout.question_id,
                    rollout.sample_index,
                    rollout.is_correct,
                    grade.extracted_answer,
                )
            )
        graded.append(
            replace(
                rollout,
                is_correct=grade.is_correct,
                extracted_answer=grade.extracted_answer,
                rules=name,
                verdict_digest=digest,
            )
        )
    return graded, changed, count


def _with_rules(benchmark: Benchmark, rules: Rules) -> Benchmark:
    """The benchmark, grading by other rules."""
    other = copy.copy(benchmark)
    other.rules = rules
    return other
