"""Whether two final answers say the same: text, numbers, units, lists, and mathematics in LaTeX."""

from __future__ import annotations

import re
from functools import lru_cache

from datamodules.answers.lists import AnswerList, list_items, split_list
from datamodules.answers.normalize import normalize, strip_edges, text_key
from datamodules.answers.numbers import number_value, values_equal
from datamodules.answers.symbolic import symbolically_equal
from datamodules.answers.units import parse_quantity, quantities_equal

MAX_LENGTH = 1000
"""Longer answers are compared as text only."""

MAX_SYMBOLIC_LENGTH = 200

_LEFT_SIDE = re.compile(
    r"^(?P<name>(?:[A-Za-z∠]|\\[A-Za-z])[A-Za-z0-9\\_{}'∠ ()]{0,40}?)\s*(?:=|\\in(?![A-Za-z])|\\approx(?![A-Za-z]))\s*"
    r"(?P<value>[^=<>]+)$"
)
_SENTENCE = re.compile(
    r"^[A-Za-z][A-Za-z' ]{0,60}? (?:is|are|equals)(?: equal to| about| approximately)? (?P<value>\S.*)$"
)
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\}|\\[A-Za-z]+")
_MATH_WORDS = frozenset("sin cos tan cot sec csc log exp sqrt frac max min mod arcsin arccos arctan".split())
_AFFIRMATION = re.compile(r"^(yes|no|true|false)[,;:.]\s+\S", re.IGNORECASE)
_RATIO = re.compile(r"^(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)$")
_ASTRONOMICAL = re.compile(
    r"\^[^\^]{0,8}\^[^\^]{0,8}\^|\^\s*\{?\s*-?\d{5,}|\d{4,}\s*\)?\s*!|!\s*\)?\s*!|\d{3,}\s*\}*\s*\^\s*\{?\d{4,}"
)


def answers_equal(prediction: str, gold: str) -> bool:
    """Compare two final answers; nothing is ever evaluated as code.

    In turn: equal text (case, articles and spacing aside); numbers, within 1e-6, with units (a missing unit or percent
    sign fits, known ones are converted); ``x = 5`` like ``5``; lists item by item, in any order unless in ( ) or [ ];
    and last, for what looks like mathematics, math-verify in a process with a time limit.

    Args:
        prediction: The answer to judge.
        gold: The right answer.

    Returns:
        The verdict. An empty answer equals nothing.
    """
    if len(prediction) > MAX_LENGTH or len(gold) > MAX_LENGTH:
        return bool(gold.strip()) and " ".join(prediction.split()) == " ".join(gold.split())
    return _equal(normalize(prediction), normalize(gold))


@lru_cache(maxsize=65536)
def _equal(prediction: str, gold: str) -> bool:
    if not prediction or not gold:
        return False
    if prediction == gold or (text_key(prediction) and text_key(prediction) == text_key(gold)):
        return True
    quantities = parse_quantity(prediction), parse_quantity(gold)
    if quantities[0] is not None and quantities[1] is not None:
        return quantities_equal(quantities[0], quantities[1])
    values = _drop_left_sides(prediction, gold)
    if values != (prediction, gold):
        return _equal(*values)
    lists = split_list(prediction), split_list(gold)
    if lists[0] is not None or lists[1] is not None:
        if lists[0] is not None and lists[1] is not None:
            return _lists_equal(lists[0], lists[1])
        return _is_range_of_interval(prediction, gold) and symbolically_equal(prediction, gold)
    if _ratios_equal(prediction, gold):
        return True
    return _looks_symbolic(prediction, gold) and symbolically_equal(prediction, gold)


def ordered_lists_equal(prediction: str, gold: str) -> bool:
    """Whether two lists, with or without brackets and quotes, have equal items in the same order."""
    items = list_items(prediction), list_items(gold)
    return len(items[0]) == len(items[1]) > 0 and all(answers_equal(a, b) for a, b in zip(*items, strict=True))


def _drop_left_sides(prediction: str, gold: str) -> tuple[str, str]:
    """Leave out ``name =`` where only one answer has it, or both have the same; and what surrounds an answer."""
    matches = _LEFT_SIDE.match(prediction), _LEFT_SIDE.match(gold)
    values = [
        match["value"].strip() if match else text for match, text in zip(matches, (prediction, gold), strict=True)
    ]
    if matches[0] and matches[1]:
        is_same_name = matches[0]["name"].replace(" ", "") == matches[1]["name"].replace(" ", "")
        return (values[0], values[1]) if is_same_name else (prediction, gold)
    if not matches[0] and not matches[1]:
        return _drop_surroundings(prediction, gold), _drop_surroundings(gold, prediction)
    if "=" in (gold if matches[0] else prediction):
        return prediction, gold
    return values[0], values[1]


def _drop_surroundings(text: str, other: str) -> str:
    """The end of "3 + 4 = 7" and of "the area is 7", and the beginning of "yes, they are"."""
    if "=" in text and "=" not in other:
        parts = [part.strip() for part in text.split("=")]
        if all(parse_quantity(part) is not None for part in parts):
            return parts[-1]
    affirmation = _AFFIRMATION.match(text)
    if affirmation:
        return affirmation[1]
    match = _SENTENCE.match(text)
    if match is None:
        return text
    value = strip_edges(match["value"])
    return value if parse_quantity(value) is not None or text_key(value) == text_key(other) else text


def _lists_equal(first: AnswerList, second: AnswerList) -> bool:
    if len(first.items) != len(second.items):
        return False
    if first.is_ordered or second.is_ordered:
        is_same_kind = first.brackets == second.brackets or "" in (first.brackets, second.brackets)
        return is_same_kind and all(_equal(a, b) for a, b in zip(first.items, second.items, strict=True))
    left = list(second.items)
    for item in first.items:
        match = next((other for other in left if _equal(item, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _ratios_equal(prediction: str, gold: str) -> bool:
    """Whether one is a ratio ``3:4`` and the other its value ``3/4``; two ratios may be times of the day."""
    matches = _RATIO.match(prediction), _RATIO.match(gold)
    if (matches[0] is None) == (matches[1] is None):
        return False
    match = matches[0] or matches[1]
    assert match is not None
    ratio = number_value(f"{match[1]}/{match[2]}")
    value = number_value(gold if matches[0] else prediction)
    return ratio is not None and value is not None and values_equal(ratio, value)


def _is_range_of_interval(prediction: str, gold: str) -> bool:
    """Whether one may be an interval and the other the inequality that describes it."""
    is_inequality = [re.search(r"[<>]|\\[lg]e(?![A-Za-z])", text) is not None for text in (prediction, gold)]
    return is_inequality[0] != is_inequality[1] and _looks_symbolic(prediction, gold)


def _looks_symbolic(prediction: str, gold: str) -> bool:
    """Whether the two are worth a symbolic comparison: short, no prose, not both a word, not plain arithmetic."""
    texts = (prediction, gold)
    if any(len(text) > MAX_SYMBOLIC_LENGTH for text in texts) or all(text.isalpha() for text in texts):
        return False
    for text in texts:
        words = re.findall(r"[A-Za-z]{3,}", _COMMAND.sub(" ", text))
        if any(word.lower() not in _MATH_WORDS for word in words) or not re.search(r"[A-Za-z0-9]", text):
            return False
        if _ASTRONOMICAL.search(text):
            return False
    # Arithmetic without letters that has no value by now is malformed or astronomical.
    return any(re.search(r"[A-Za-z!|]", text) for text in texts)
