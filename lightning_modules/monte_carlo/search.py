"""Which steps of a solution need a score: all, those up to the first wrong one, or a binary search for that one.

Binary search (OmegaPRM, arXiv 2406.06592, section 3.2) assumes that scores are monotone: from a step behind a wrong
one, no continuation is right. It asks about log2 of the steps; the others are inferred, and have no counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Search = Literal["linear", "binary"]


def steps_to_score(
    search: Search, early_stop: bool, known: Mapping[int, bool], num_steps: int, num_continued: int
) -> list[int]:
    """The steps, counted from 1, whose continuations are needed now; none when the solution is done.

    Args:
        search: How the first wrong step is looked for.
        early_stop: With linear search, no step after a wrong one is asked for.
        known: For steps that have been scored, whether a continuation was right; and for the last step, where it is not
            continued, whether the solution is right.
        num_steps: Number of steps.
        num_continued: Number of steps that may be continued: all, or all but the last.
    """
    if search == "binary":
        low, high = _bounds(known, num_steps)
        return [(low + high) // 2] if high - low > 1 else []
    open_steps = [step for step in range(1, num_continued + 1) if step not in known]
    if not early_stop or not open_steps:
        return open_steps
    before = open_steps[0] - 1
    return open_steps[:1] if before == 0 or known[before] else []


def first_wrong_step(known: Mapping[int, bool], num_steps: int) -> int:
    """The first wrong step as binary search has found it, counted from 1; ``num_steps + 1`` where there is none."""
    return _bounds(known, num_steps)[1]


def _bounds(known: Mapping[int, bool], num_steps: int) -> tuple[int, int]:
    """The last step that is known to be right, and the first one behind it that is known to be wrong.

    A right step behind a wrong one breaks the assumption; then the later one counts, since it has been seen to lead to
    the answer.
    """
    low = max((step for step, is_right in known.items() if is_right), default=0)
    high = min((step for step, is_right in known.items() if not is_right and step > low), default=num_steps + 1)
    return low, high


def violations(is_right: Mapping[int, bool]) -> int:
    """How many steps are right, though an earlier one is wrong: where the assumption of binary search fails."""
    wrong = min((step for step, right in is_right.items() if not right), default=None)
    return 0 if wrong is None else sum(right for step, right in is_right.items() if step > wrong)
