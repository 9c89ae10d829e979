"""Rollouts compared with their benchmark: every question, N candidates, nothing twice, verdicts of today's rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from datamodules.benchmarks.base import Benchmark, BenchmarkQuestion, Rules
from datamodules.rollouts.grading import ChangedVerdict, regrade
from datamodules.rollouts.records import Rollout, place
from datamodules.storage.fields import first_of


@dataclass
class RolloutCheck:
    """What was found.

    Attributes:
        benchmark: Name of the benchmark.
        num_questions: Number of its questions.
        num_candidates: N, how many candidates each should have.
        num_rollouts: Number of rollouts, all told.
        missing: Ids of questions without any rollout, in the order of the benchmark.
        incomplete: Question ids with the sample indices below N that they lack.
        repeated: Places of rollouts whose question and sample index occurred before, with the earlier place.
        unknown: Places of rollouts whose question the benchmark does not have.
        reordered: Places of rollouts whose policy saw the options in another order than the question has them.
        changed: Verdicts on disk that the present rules do not give.
        num_graded: Rollouts whose verdict was not known to be of the present rules, so that they were graded.
        groups: Question id to its rollouts by sample index, in the order of the benchmark; all of them but unknown and
            repeated ones.
        graded: The same with the verdicts of the present rules.
    """

    benchmark: str
    num_questions: int
    num_candidates: int
    num_rollouts: int = 0
    missing: list[str] = field(default_factory=list)
    incomplete: dict[str, list[int]] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    changed: list[ChangedVerdict] = field(default_factory=list)
    num_graded: int = 0
    groups: dict[str, list[Rollout]] = field(default_factory=dict)
    graded: dict[str, list[Rollout]] = field(default_factory=dict)

    @property
    def broken(self) -> list[str]:
        """A line for each kind of problem that leaves candidates in doubt; empty if there is none."""
        return [line for line in (self.foreign, *self.in_doubt, self.lacking) if line]

    @property
    def foreign(self) -> str:
        """A line about rollouts of unknown questions; empty if there are none."""
        if not self.unknown:
            return ""
        return (
            f"{len(self.unknown)} rollouts are of questions that {self.benchmark} does not have (were they sampled "
            f"from another table?): {first_of(self.unknown)}"
        )

    @property
    def in_doubt(self) -> list[str]:
        """A line about rollouts with the index of another one, and one about those on options in another order."""
        found = []
        if self.repeated:
            found.append(f"{len(self.repeated)} rollouts have the index of another one: {first_of(self.repeated)}")
        if self.reordered:
            found.append(
                f"{len(self.reordered)} rollouts are on options in another order, so letters mean other options: "
                f"{first_of(self.reordered, '; ')}"
            )
        return found

    @property
    def lacking(self) -> str:
        """A line about questions without all of their samples; empty if there are none."""
        if not self.incomplete:
            return ""
        names = [f"{name!r} lacks {first_of(list(map(str, gaps)))}" for name, gaps in self.incomplete.items()]
        return f"{len(names)} questions do not have the samples 0 to {self.num_candidates - 1}: {first_of(names, '; ')}"

    @property
    def absent(self) -> str:
        """A line about questions without rollouts; empty if there are none."""
        if not self.missing:
            return ""
        names = first_of([repr(name) for name in self.missing])
        return f"{len(self.missing)} of {self.num_questions} questions have no rollouts: {names}"

    @property
    def stale(self) -> str:
        """A line about verdicts that changed; empty if there are none."""
        if not self.changed:
            return ""
        return (
            f"{len(self.changed)} of {self.num_rollouts} verdicts differ from those of the present rules: "
            f"{first_of([str(change) for change in self.changed], '; ')}"
        )

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, a line each."""
        return [line for line in (*self.broken, self.absent, self.stale) if line]


def check_rollouts(
    benchmark: Benchmark,
    questions: Sequence[BenchmarkQuestion],
    rollouts: Iterable[Rollout],
    num_candidates: int | None = None,
    rules: Rules | None = None,
) -> RolloutCheck:
    """Compare the rollouts of a benchmark with it.

    Args:
        benchmark: Grades.
        questions: All that it scores.
        rollouts: In any order; those of other benchmarks are not looked at.
        num_candidates: N; by default as many as the question with the most has.
        rules: Of verdicts, see :func:`datamodules.rollouts.grading.regrade`.
    """
    by_id = {question.question_id: question for question in questions}
    own = [rollout for rollout in rollouts if rollout.benchmark == benchmark.name]
    unknown = [rollout for rollout in own if rollout.question_id not in by_id]
    groups, repeated = _group([rollout for rollout in own if rollout.question_id in by_id])
    if num_candidates is None:
        num_candidates = max((max(group) + 1 for group in groups.values()), default=1)
    ordered = {name: [groups[name][index] for index in sorted(groups[name])] for name in by_id if name in groups}
    kept = [rollout for group in ordered.values() for rollout in group]
    graded, changed, count = regrade(benchmark, by_id, kept, rules)
    check = RolloutCheck(
        benchmark=benchmark.name,
        num_questions=len(by_id),
        num_candidates=num_candidates,
        num_rollouts=len(own),
        missing=[name for name in by_id if name not in groups],
        incomplete=_gaps(ordered, num_candidates),
        repeated=repeated,
        unknown=[f"{place(rollout)} {rollout.question_id!r}" for rollout in unknown],
        reordered=[
            f"{place(rollout)}: field 'option_order' is {rollout.option_order}, the question's is {order}"
            for rollout in kept
            if rollout.option_order not in (None, order := by_id[rollout.question_id].option_order)
        ],
        changed=changed,
        num_graded=count,
        groups=ordered,
    )
    for rollout in graded:
        check.graded.setdefault(rollout.question_id, []).append(rollout)
    return check


def _group(rollouts: Iterable[Rollout]) -> tuple[dict[str, dict[int, Rollout]], list[str]]:
    """Question id to sample index to the first rollout that has both, and the places of the others."""
    groups: dict[str, dict[int, Rollout]] = {}
    repeated = []
    for rollout in rollouts:
        first = groups.setdefault(rollout.question_id, {}).setdefault(rollout.sample_index, rollout)
        if first is not rollout:
            repeated.append(
                f"{place(rollout)} repeats sample {rollout.sample_index} of {rollout.question_id!r} at {place(first)}"
            )
    return groups, repeated


def _gaps(groups: Mapping[str, Sequence[Rollout]], num_candidates: int) -> dict[str, list[int]]:
    """Question id to the sample indices below N that are not there."""
    gaps = {}
    for name, group in groups.items():
        present = {rollout.sample_index for rollout in group}
        missing = [index for index in range(num_candidates) if index not in present]
        if missing:
            gaps[name] = missing
    return gaps
