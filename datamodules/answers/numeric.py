"""The number that an answer states."""

from __future__ import annotations

import re
from fractions import Fraction

from datamodules.answers.normalize import normalize
from datamodules.answers.numbers import Value, number_value
from datamodules.answers.units import PERCENT, parse_quantity

_NUMBER = re.compile(
    r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?|(?<![\w.])-?\.\d+"
)


def numeric_answer(answer: str) -> Value | None:
    """The number in a final-answer cut.

    Read as a number with an optional unit; else what stands behind the last equals or approximately sign; else the only
    number in the text.

    Returns:
        Its value; None if there is no number, or several and none of them is marked.
    """
    values = numeric_answers(answer)
    return values[0] if values else None


def numeric_answers(answer: str) -> list[Value]:
    """The number that :func:`numeric_answer` reads, and for ``25 %`` also 0.25; empty without one."""
    text = normalize(answer)
    for part in (text, re.split(r"=|≈|\\approx(?![A-Za-z])", text)[-1].strip()):
        quantity = parse_quantity(part)
        if quantity is not None:
            return [quantity.value, quantity.value * Fraction(1, 100)] if quantity.unit == PERCENT else [quantity.value]
    numbers = set(_NUMBER.findall(text))
    value = number_value(numbers.pop()) if len(numbers) == 1 else None
    return [] if value is None else [value]


def integers_equal(answer: str, gold: str) -> bool:
    """Whether the numbers in two answers agree when cut off to whole ones, as MathVista's official rule does."""
    return any(int(value) == int(expected) for value, expected in _pairs(answer, gold))


def decimals_equal(answer: str, gold: str, decimals: int) -> bool:
    """Whether the numbers in two answers agree when rounded to ``decimals`` places."""
    return any(round(float(a), decimals) == round(float(b), decimals) for a, b in _pairs(answer, gold))


def numbers_within(answer: str, gold: str, tolerance: float) -> bool:
    """Whether the numbers in two answers differ by at most ``tolerance``; at the limit they still agree."""
    bound = Fraction(str(tolerance)) + Fraction(1, 10**9)
    return any(abs(Fraction(value) - Fraction(expected)) <= bound for value, expected in _pairs(answer, gold))


def _pairs(answer: str, gold: str) -> list[tuple[Value, Value]]:
    expected = numeric_answer(gold)
    return [] if expected is None else [(value, expected) for value in numeric_answers(answer)]
