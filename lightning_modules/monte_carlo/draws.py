"""Continuations of one prefix: how many are asked for next, which of them count, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from datamodules.policy.prompts import Prompt
from lightning_modules.generation.engine import GeneratedText
from lightning_modules.monte_carlo.plan import AnnotationPlan


class Outcome(NamedTuple):
    """What came of one text.

    Attributes:
        is_right: Whether its answer is the gold one.
        is_cut: Whether it was cut at the limit of new tokens.
        is_unparsed: Whether it ended by itself, but no answer could be read from it.
    """

    is_right: bool
    is_cut: bool
    is_unparsed: bool


def outcome_of(prompt: Prompt, beginning: str, found: GeneratedText) -> Outcome:
    """Grade a text that was sampled behind the beginning of an answer."""
    grade = prompt.grade(beginning + found.text)
    is_cut = found.finish_reason == "length"
    return Outcome(grade.is_correct, is_cut, not is_cut and grade.extracted_answer is None)


class Counts(NamedTuple):
    """Of the continuations that count."""

    correct: int
    total: int
    cut: int
    unparsed: int


@dataclass
class PrefixDraws:
    """Continuations of one prefix.

    Attributes:
        index: Of its prompt in the window.
        text: What is continued.
        step: Number of its steps.
        plan: Says how many continuations there are.
        asked: Number of continuations that have been asked for; they are numbered from 0.
        outcomes: Those that have come, by number.
    """

    index: int
    text: str
    step: int
    plan: AnnotationPlan
    asked: int = 0
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    counted: int | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether continuations that were asked for have not come yet."""
        return self.asked > len(self.outcomes)

    @property
    def is_done(self) -> bool:
        """Whether the rule has stopped."""
        return self.counted is not None

    @property
    def least(self) -> int:
        """How many continuations must be asked for now: all, or one if the next one may be enough."""
        return self.plan.num_continuations if self.plan.stopping == "all" else 1

    @property
    def most(self) -> int:
        """How many may be asked for now where rows would stay idle: as many as there were, so that they double."""
        return max(self.least, min(self.asked, self.plan.num_continuations - self.asked))

    def ask(self, count: int) -> range:
        """Numbers of the next continuations."""
        numbers = range(self.asked, self.asked + count)
        self.asked += count
        return numbers

    def receive(self, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of some continuations."""
        self.outcomes.update(zip(numbers, outcomes, strict=True))
        known: list[bool] = []
        while len(known) in self.outcomes:
            known.append(self.outcomes[len(known)].is_right)
        self.counted = self.plan.stops_at(known)

    @property
    def counts(self) -> Counts:
        """What counts, once the rule has stopped."""
        if self.counted is None:
            raise RuntimeError(f"continuations of {self.text!r} are still drawn")
        counted = [self.outcomes[number] for number in range(self.counted)]
        sums = (sum(values) for values in zip(*counted, strict=True))
        right, cut, unparsed = sums
        return Counts(right, self.counted, cut, unparsed)
