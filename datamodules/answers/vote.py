"""Which candidates give the same answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from datamodules.answers.compare import answers_equal
from datamodules.answers.normalize import normalize
from datamodules.answers.units import parse_quantity

_HAS_LEFT_SIDE = re.compile(r"[^<>=]+=[^<>=]+")


def equivalence_classes(answers: Sequence[str | None]) -> list[int]:
    """Put equal answers into classes that do not depend on the order of the answers.

    Equality is not transitive (``5`` equals ``5 cm`` and ``5 m``). So each class is formed around one of its members,
    which are chosen among the different spellings in a fixed order: those with a unit or a left side first, of these
    the more frequent first, then by the alphabet. Any other answer joins the first of them that it equals.

    Args:
        answers: One answer a candidate; None for a response without a readable answer.

    Returns:
        One class index an answer, numbered from 0 in order of first appearance; -1 for None, which casts no vote.
    """
    counts = Counter(normalize(answer) for answer in answers if answer is not None)
    centres: list[str] = []
    centre_of: dict[str, str] = {}
    for spelling in sorted(counts, key=lambda text: (not _is_specific(text), -counts[text], text)):
        centre = next((centre for centre in centres if answers_equal(spelling, centre)), None)
        if centre is None:
            centre = spelling
            centres.append(spelling)
        centre_of[spelling] = centre
    numbers: dict[str, int] = {}
    classes = []
    for answer in answers:
        if answer is None:
            classes.append(-1)
        else:
            classes.append(numbers.setdefault(centre_of[normalize(answer)], len(numbers)))
    return classes


def _is_specific(answer: str) -> bool:
    quantity = parse_quantity(answer)
    return bool(quantity and quantity.unit) or _HAS_LEFT_SIDE.fullmatch(answer) is not None
