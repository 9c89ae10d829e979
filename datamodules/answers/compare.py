"""Whether two final answers say the same: text, numbers, units, lists, and mathematics in LaTeX."""

from __future__ import annotations

import re
from functools import lru_cache

from datamodules.answers.normalize import normalize, text_key
from datamodules.answers.symbolic import symbolically_equal
from datamodules.answers.units import parse_quantity, quantities_equal

MAX_LENGTH = 1000
"""Longer answers are compared as text only."""

MAX_SYMBOLIC_LENGTH = 200

MAX_BRACKETS = 60

_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}"}
_LEFT_SIDE = re.compile(r"^(?P<name>[A-Za-z\\∠][A-Za-z0-9\\_{}'∠ ()]{0,24}?)\s*=\s*(?P<value>[^=<>]+)$")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_MATH_WORDS = frozenset("sin cos tan cot sec csc log exp sqrt frac max min mod".split())


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
    lists = _split_list(prediction), _split_list(gold)
    if lists[0] is not None or lists[1] is not None:
        return lists[0] is not None and lists[1] is not None and _lists_equal(lists[0], lists[1])
    return _looks_symbolic(prediction, gold) and symbolically_equal(prediction, gold)


def _drop_left_sides(prediction: str, gold: str) -> tuple[str, str]:
    """Leave out ``name =`` where only one answer has it, or both have the same."""
    matches = _LEFT_SIDE.match(prediction), _LEFT_SIDE.match(gold)
    values = [
        match["value"].strip() if match else text for match, text in zip(matches, (prediction, gold), strict=True)
    ]
    if matches[0] and matches[1]:
        is_same_name = matches[0]["name"].replace(" ", "") == matches[1]["name"].replace(" ", "")
        return (values[0], values[1]) if is_same_name else (prediction, gold)
    if "=" in (gold if matches[0] else prediction):
        return prediction, gold
    return values[0], values[1]


def _split_list(text: str) -> tuple[str, str, tuple[str, ...]] | None:
    """The opening and closing bracket and the items of a list; None for a text without a comma at its top level."""
    if sum(text.count(sign) for sign in "([{") > MAX_BRACKETS:
        return None
    opening = next((sign for sign in _BRACKETS if text.startswith(sign)), "")
    closing = next((sign for sign in ("\\}", ")", "]") if text.endswith(sign)), "")
    inner = text[len(opening) : len(text) - len(closing)] if opening and closing else text
    if opening and closing and not _is_balanced(inner):
        opening = closing = ""
        inner = text
    if not (opening and closing):
        opening = closing = ""
    items = _split_at_commas(inner)
    if len(items) < 2 or not all(items):
        return None
    return opening, closing, tuple(items)


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _split_at_commas(text: str) -> list[str]:
    items = [""]
    depth = 0
    for piece in re.split(r"(,|;|\b(?:and|or)\b|[(\[{]|[)\]}])", text):
        depth += (piece in ("(", "[", "{")) - (piece in (")", "]", "}"))
        if depth == 0 and piece in (",", ";", "and", "or"):
            items.append("")
        else:
            items[-1] += piece
    stripped = [item.strip() for item in items]
    # "a, b, and c" leaves an empty item between the comma and the word.
    return [item for number, item in enumerate(stripped) if item or number in (0, len(stripped) - 1)]


def _lists_equal(first: tuple[str, str, tuple[str, ...]], second: tuple[str, str, tuple[str, ...]]) -> bool:
    brackets, items = (first[:2], second[:2]), (first[2], second[2])
    if len(items[0]) != len(items[1]):
        return False
    if not {("", ""), ("\\{", "\\}")} >= set(brackets):
        both = brackets[0] == brackets[1] or ("", "") in brackets
        return both and all(_equal(a, b) for a, b in zip(*items, strict=True))
    left = list(items[1])
    for item in items[0]:
        match = next((other for other in left if _equal(item, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _looks_symbolic(prediction: str, gold: str) -> bool:
    """Whether the two are worth a symbolic comparison: short, no prose, not both a word, not plain arithmetic."""
    texts = (prediction, gold)
    if any(len(text) > MAX_SYMBOLIC_LENGTH for text in texts) or all(text.isalpha() for text in texts):
        return False
    for text in texts:
        words = re.findall(r"[A-Za-z]{3,}", _COMMAND.sub(" ", text))
        if any(word.lower() not in _MATH_WORDS for word in words) or not re.search(r"[A-Za-z0-9]", text):
            return False
    # Arithmetic without letters that has no value by now is malformed or astronomical.
    return any(re.search(r"[A-Za-z!]", text) for text in texts)
