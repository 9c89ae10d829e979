"""The number that an answer states."""

from __future__ import annotations

import re

from datamodules.answers.normalize import normalize
from datamodules.answers.numbers import Value, number_value
from datamodules.answers.units import parse_quantity

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
    text = normalize(answer)
    for part in (text, re.split(r"=|≈|\\approx(?![A-Za-z])", text)[-1].strip()):
        quantity = parse_quantity(part)
        if quantity is not None:
            return quantity.value
    numbers = set(_NUMBER.findall(text))
    return number_value(numbers.pop()) if len(numbers) == 1 else None
