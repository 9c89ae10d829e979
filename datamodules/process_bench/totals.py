"""How many samples and steps the released VisualProcessBench has, and whether a set is that one.

Numbers of steps by source and in all: the paper's tables of section 3.4 and of the appendix (arXiv 2503.10291); samples
by source: its table 1.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

logger = logging.getLogger(__name__)

TotalsCheck = Literal["auto", "error", "warn"]

DATASET_NAME = "VisualProcessBench"


@dataclass(frozen=True)
class SourceTotals:
    """What one source contributes.

    Attributes:
        samples: Number of solutions.
        correct: Number of correct steps.
        incorrect: Number of incorrect steps.
        neutral: Number of neutral steps; None where it is not known.
    """

    samples: int
    correct: int
    incorrect: int
    neutral: int | None = None


RELEASED: Mapping[str, SourceTotals] = {
    "MMMU": SourceTotals(267, 1698, 708),
    "MathVision": SourceTotals(712, 3875, 2350),
    "MathVerse": SourceTotals(1026, 5767, 2960),
    "DynaMath": SourceTotals(570, 3469, 1091),
    "WeMath": SourceTotals(291, 1776, 582),
}
RELEASED_OVERALL = SourceTotals(2866, 16585, 7691, 2674)


def count_steps(solutions: Iterable[tuple[str, Iterable[int]]]) -> dict[str, SourceTotals]:
    """Totals by source, in order of appearance, of (source, correctness of the steps) pairs."""
    samples: Counter[str] = Counter()
    steps: dict[str, Counter[int]] = {}
    for source, correctness in solutions:
        samples[source] += 1
        steps.setdefault(source, Counter()).update(correctness)
    return {name: SourceTotals(samples[name], found[1], found[-1], found[0]) for name, found in steps.items()}


def pooled(totals: Mapping[str, SourceTotals]) -> SourceTotals:
    """The sums over all sources."""
    return SourceTotals(
        sum(found.samples for found in totals.values()),
        sum(found.correct for found in totals.values()),
        sum(found.incorrect for found in totals.values()),
        sum(found.neutral or 0 for found in totals.values()),
    )


def differences_from_release(totals: Mapping[str, SourceTotals]) -> list[str]:
    """Every number that differs from the release, such as ``MathVerse has 5766 correct steps instead of 5767``."""
    rows = [(name, totals.get(name, SourceTotals(0, 0, 0, 0)), expected) for name, expected in RELEASED.items()]
    rows += [(name, found, SourceTotals(0, 0, 0, 0)) for name, found in totals.items() if name not in RELEASED]
    rows.append(("the whole", pooled(totals), RELEASED_OVERALL))
    return [
        f"{name} has {getattr(found, field)} {label} instead of {getattr(expected, field)}"
        for name, found, expected in rows
        for field, label in (
            ("samples", "samples"),
            ("correct", "correct steps"),
            ("incorrect", "incorrect steps"),
            ("neutral", "neutral steps"),
        )
        if getattr(expected, field) not in (None, getattr(found, field))
    ]


def coverage_sentence(totals: Mapping[str, SourceTotals]) -> str:
    """How a set relates to the released one, for reports and notices."""
    found = pooled(totals)
    if not differences_from_release(totals):
        return f"These are all {found.samples} samples of the released {DATASET_NAME}."
    return (
        f"{found.samples} samples with {found.correct + found.incorrect + (found.neutral or 0)} steps ({found.correct} "
        f"correct, {found.incorrect} incorrect, {found.neutral} neutral) are not the released {DATASET_NAME} of "
        f"{RELEASED_OVERALL.samples} samples: do not compare them with published numbers."
    )


def check_totals(totals: Mapping[str, SourceTotals], place: str, check: TotalsCheck) -> None:
    """Compare a set with the released one.

    Args:
        totals: By source.
        place: Of the set, to begin messages with.
        check: "auto" raises an error if a set is as large as the release but differs from it, and gives notice of a set
            of another size; "error" accepts nothing but the release; "warn" accepts all and lists the differences.

    Raises:
        ValueError: Names every number that differs.
    """
    if check not in get_args(TotalsCheck):
        raise ValueError(f"the check of totals must be one of {get_args(TotalsCheck)}, got {check!r}")
    differences = differences_from_release(totals)
    if not differences:
        return
    is_full = pooled(totals).samples == RELEASED_OVERALL.samples
    listed = "; ".join(differences)
    if check == "error" or (check == "auto" and is_full):
        raise ValueError(
            f"{place}: this is not the released {DATASET_NAME}: {listed}. Download it again, or set the check of its "
            f"totals to 'warn' if the difference is meant"
        )
    if check == "warn":
        logger.warning("%s: this is not the released %s: %s", place, DATASET_NAME, listed)
    else:
        logger.warning("%s: %s", place, coverage_sentence(totals))
