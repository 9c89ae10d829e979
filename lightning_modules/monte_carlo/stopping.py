"""When a step has been continued often enough.

A rule looks at the continuations of a step in the order of their numbers, and stops at the first number where it has
seen enough. What is drawn beyond that does not count, so a score depends neither on the engine nor on how many
continuations are asked for at once.

What the counts of stopped steps are good for: k of n continuations were right when the rule stopped.

- The label ``k > 0`` of ``first_success`` is that of all K continuations.
- ``k log p + (n - k) log(1 - p)`` is the log-likelihood of p under every rule here, since a rule looks at nothing but
  outcomes. Its derivative has the mean 0 at the true p (Wald 1944), so sums of counts over steps estimate p well.
- The share ``k / n`` of a single step is biased: with ``first_success`` it is 1 / n, on average larger than p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import betainc, betaincinv

StoppingRule = Literal["all", "first_success", "confident"]


@dataclass(frozen=True)
class Confidence:
    """When ``stopping: confident`` has seen enough: one of the two conditions is met.

    The posterior of the rate of right continuations is Beta(1 + right ones, 1 + others).

    Attributes:
        threshold: Stop if the rate is above this number, or below it, with ``probability``; None to look at the width
            only. In (0, 1): that a rate is above 0 cannot be in doubt, take ``first_success`` for that.
        probability: See above; also the mass of the interval, in (0.5, 1).
        width: Stop if the central interval is not wider; None to look at the threshold only.

    Raises:
        ValueError: If a number is out of range, or there is neither threshold nor width.
    """

    threshold: float | None = 0.5
    probability: float = 0.95
    width: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is None and self.width is None:
            raise ValueError("confidence needs a threshold or a width")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(
                f"confidence.threshold must be in (0, 1), got {self.threshold}; for labels of scores above 0 take "
                f"stopping: first_success"
            )
        if not 0.5 < self.probability < 1:
            raise ValueError(f"confidence.probability must be in (0.5, 1), got {self.probability}")
        if self.width is not None and not 0 < self.width < 1:
            raise ValueError(f"confidence.width must be in (0, 1), got {self.width}")

    def is_enough(self, right: int, total: int) -> bool:
        """Whether ``right`` of ``total`` continuations decide."""
        a, b = 1 + right, 1 + total - right
        if self.threshold is not None:
            below = float(betainc(a, b, self.threshold))
            if max(below, 1 - below) >= self.probability:
                return True
        if self.width is None:
            return False
        tail = (1 - self.probability) / 2
        return float(betaincinv(a, b, 1 - tail) - betaincinv(a, b, tail)) <= self.width


def stops_at(
    is_right: Sequence[bool], num_continuations: int, rule: StoppingRule, confidence: Confidence
) -> int | None:
    """How many continuations of a step count.

    Args:
        is_right: The first continuations in the order of their numbers, as far as they are known.
        num_continuations: K, the most of a step.
        rule: When to stop before that.
        confidence: Of the rule "confident".

    Returns:
        Between 1 and K; None where more must be known.
    """
    enough: Callable[[int, int], bool]
    if rule == "all":
        return num_continuations if len(is_right) >= num_continuations else None
    enough = (lambda right, _: right > 0) if rule == "first_success" else confidence.is_enough
    right = 0
    for total, each in enumerate(is_right[:num_continuations], start=1):
        right += each
        if total == num_continuations or enough(right, total):
            return total
    return None
