"""Whether two final answers say the same: text, numbers, units, lists, and mathematics in LaTeX."""

from __future__ import annotations

import re
from functools import lru_cache

from datamodules.answers.colons import colons_equal, sequence_terms, sequences_equal
from datamodules.answers.formula import are_comparable
from datamodules.answers.left_sides import drop_names, named_value
from datamodules.answers.lists import AnswerList, list_items, split_list
from datamodules.answers.normalize import normalize, strip_edges, text_key
from datamodules.answers.symbolic import symbolically_equal
from datamodules.answers.units import parse_quantity, quantities_equal

MAX_LENGTH = 1000
"""Longer answers are compared as text only."""

_SENTENCE = re.compile(
    r"^[A-Za-z][A-Za-z' ]{0,60}? (?:is|are|equals)(?: equal to| about| approximately)? (?P<value>\S.*)$"
)
_AFFIRMATION = re.compile(r"^(yes|no|true|false)[,;:.]\s+\S", re.IGNORECASE)


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
    return _equal(normalize(_as_list(prediction)), normalize(_as_list(gold)))


def _as_list(answer: str) -> str:
    """Lines as the items of a list, as in some released golds; LaTeX may go over several lines."""
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    if len(lines) < 2 or "\\begin" in answer or any(line.count("{") != line.count("}") for line in lines):
        return answer
    is_list = not any(line[-1] in "=+-*/,;:\\" or line[0] in "=+*/" for line in lines)
    return ", ".join(lines) if is_list else answer


@lru_cache(maxsize=65536)
def _equal(prediction: str, gold: str) -> bool:
    if not prediction or not gold:
        return False
    if prediction == gold or (text_key(prediction) and text_key(prediction) == text_key(gold)):
        return True
    sequences = sequence_terms(prediction), sequence_terms(gold)
    if sequences[0] is not None and sequences[1] is not None:
        return sequences_equal(sequences[0], sequences[1])
    quantities = parse_quantity(prediction), parse_quantity(gold)
    if quantities[0] is not None and quantities[1] is not None:
        return quantities_equal(quantities[0], quantities[1])
    values = drop_names(prediction, gold)
    if values == (prediction, gold):
        values = _drop_surroundings(prediction, gold), _drop_surroundings(gold, prediction)
    if values != (prediction, gold):
        return _equal(*values)
    approximations = [re.split(r"\s*\\approx(?![A-Za-z])\s*", text) for text in (prediction, gold)]
    if any(len(parts) > 1 for parts in approximations):
        return any(
            _equal(a, b) for a in approximations[0] for b in approximations[1]
        )  # said twice, exactly and rounded
    by_colons = colons_equal(prediction, gold)
    if by_colons is not None:
        return by_colons
    lists = split_list(prediction), split_list(gold)
    if lists[0] is not None or lists[1] is not None:
        if lists[0] is not None and lists[1] is not None:
            return _lists_equal(lists[0], lists[1])
        return _is_range_of_interval(prediction, gold) and symbolically_equal(prediction, gold)
    return are_comparable(prediction, gold) and symbolically_equal(prediction, gold)


def ordered_lists_equal(prediction: str, gold: str) -> bool:
    """Whether two lists, with or without brackets and quotes, have equal items in the same order."""
    items = list_items(prediction), list_items(gold)
    return len(items[0]) == len(items[1]) > 0 and all(answers_equal(a, b) for a, b in zip(*items, strict=True))


def _drop_surroundings(text: str, other: str) -> str:
    """The end of "3 + 4 = 7", "x = 3 + 4 = 7" and "the area is 7", and the beginning of "yes, they are"."""
    if (
        "=" in text
        and "=" not in other
        and split_list(text) is None
        and not re.search(r"[<>]|\\[lgn]e(?![A-Za-z])", text)
    ):
        parts = [part.strip() for part in text.split("=")]
        is_named = len(parts) > 2 and named_value(f"{parts[0]} = 1")[0] != ""
        if all(parse_quantity(part) is not None for part in (parts[-1:] if is_named else parts)):
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


def _is_range_of_interval(prediction: str, gold: str) -> bool:
    """Whether one may be an interval and the other the inequality that describes it."""
    is_inequality = [re.search(r"[<>]|\\[lg]e(?![A-Za-z])", text) is not None for text in (prediction, gold)]
    return is_inequality[0] != is_inequality[1] and are_comparable(prediction, gold)
