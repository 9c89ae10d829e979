"""Answers with colons or hyphens: times of the day, ratios, sequences like 5-2-3 and ranges.

They are no numbers, but a ratio of two has a value.
"""

from __future__ import annotations

import re

from datamodules.answers.normalize import normalize, text_key
from datamodules.answers.numbers import number_value, values_equal
from datamodules.answers.units import parse_quantity, quantities_equal

_TIME = re.compile(
    r"(?P<hours>\d{1,2})(?:\s*[:.]\s*(?P<minutes>[0-5]\d)(?::(?P<seconds>[0-5]\d))?)?\s*"
    r"(?:(?P<half>[ap])\.?\s*m\b\.?|o'clock)(?:\s+(?:in the )?(?:morning|afternoon|evening|night))?",
    re.IGNORECASE,
)
_DIGITAL = re.compile(r"(?P<hours>\d{1,2})\s*:\s*(?P<minutes>[0-5]\d)(?::(?P<seconds>[0-5]\d))?(?P<half>)")
_TWO_NUMBERS = re.compile(r"(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)")
_SEQUENCE = re.compile(r"\d+(?:\.\d+)?%?(?:\s*-\s*\d+(?:\.\d+)?%?)+")
_COLON = re.compile(r"\s*:\s*")
_TERM = re.compile(r"[\w.,\\{}^°/()+%' -]+")

Time = tuple[int, int, int, str]


def sequence_terms(text: str) -> list[str] | None:
    """The terms of a normalised answer that is nothing but numbers with hyphens between; None for another."""
    return re.split(r"\s*-\s*", text) if _SEQUENCE.fullmatch(text) else None


def sequences_equal(first: list[str], second: list[str]) -> bool:
    """Whether two sequences or ranges agree term by term: 5-2-3 is not 5-3-2, though both come to 0."""
    return len(first) == len(second) and all(map(_terms_equal, first, second))


def has_colon(text: str) -> bool:
    """Whether a normalised answer is a time of the day or a ratio, of two or more terms."""
    return time_of_day(text) is not None or ratio_terms(text) is not None


def time_of_day(text: str) -> Time | None:
    """Hours, minutes, seconds and "a", "p" or nothing, of ``10:30 am``, ``10 p.m.``, ``3 o'clock`` or ``10:30``."""
    match = _TIME.fullmatch(text) or _DIGITAL.fullmatch(text)
    if match is None or int(match["hours"]) > 24:
        return None
    half = (match["half"] or "").lower()
    return int(match["hours"]), int(match["minutes"] or 0), int(match["seconds"] or 0), half


def ratio_terms(text: str) -> list[str] | None:
    """The terms between the colons of a normalised answer; None without a colon, or with words between."""
    terms = _COLON.split(text)
    if len(terms) < 2 or not all(term and _TERM.fullmatch(term) for term in terms):
        return None
    is_prose = any(re.search(r"(?<!\\)\b[A-Za-z]{3,}", term) for term in terms)
    return None if is_prose else terms


def colons_equal(prediction: str, gold: str) -> bool | None:
    """Compare two normalised answers of which at least one has colons; None where this module has no say.

    Times agree in hours, minutes and half of the day, where both name it. Ratios agree term by term: ``2:4`` is not
    ``1:2``, which may both be times. A ratio of two numbers equals its value.
    """
    times = time_of_day(prediction), time_of_day(gold)
    if times[0] is not None and times[1] is not None:
        return times[0][:3] == times[1][:3] and (times[0][3] == times[1][3] or "" in (times[0][3], times[1][3]))
    ratios = ratio_terms(prediction), ratio_terms(gold)
    if ratios[0] is not None and ratios[1] is not None:
        return len(ratios[0]) == len(ratios[1]) and all(map(_terms_equal, ratios[0], ratios[1]))
    if ratios[0] is None and ratios[1] is None:
        return None if times == (None, None) else False
    match = _TWO_NUMBERS.fullmatch(prediction if ratios[0] is not None else gold)
    value = number_value(gold if ratios[0] is not None else prediction)
    if match is None or value is None:
        return False if match is None else None
    ratio = number_value(f"{match[1]}/{match[2]}")
    return ratio is not None and values_equal(ratio, value)


def _terms_equal(first: str, second: str) -> bool:
    if text_key(normalize(first)) == text_key(normalize(second)):
        return True
    quantities = parse_quantity(normalize(first)), parse_quantity(normalize(second))
    return quantities[0] is not None and quantities[1] is not None and quantities_equal(quantities[0], quantities[1])
