"""Answers that list several things: tuples, intervals, sets, and items with commas, semicolons or "and" between."""

from __future__ import annotations

import re
from dataclasses import dataclass

from datamodules.answers.normalize import normalize, strip_edges

MAX_BRACKETS = 60

_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_SEPARATORS = re.compile(r"(,|;|(?<![A-Za-z\\])(?:and|or)(?![a-z])|[(\[{]|[)\]}])")
_PLUS_MINUS = re.compile(r"^(?P<left>[^,;=<>]*?)\\(?:pm|mp)(?![A-Za-z])\s*(?P<right>[^,;=<>]+)$")


@dataclass(frozen=True)
class AnswerList:
    """Items in the order given.

    Attributes:
        brackets: The opening and the closing one, ``"[)"`` for instance; empty without or if they are braces.
        items: At least two, none of them empty.
    """

    brackets: str
    items: tuple[str, ...]

    @property
    def is_ordered(self) -> bool:
        """Whether the order counts: in tuples, intervals and bracketed lists."""
        return bool(self.brackets)


def split_list(text: str) -> AnswerList | None:
    r"""The items of a normalised answer; None for a text without a comma, "and", "or" or ``\pm`` at its top level."""
    if sum(text.count(sign) for sign in "([{") > MAX_BRACKETS:
        return None
    text = text.replace("\\{", "{").replace("\\}", "}")
    brackets, inner = "", text
    if text[:1] in _BRACKETS and text[-1:] in _BRACKETS.values() and _is_balanced(text[1:-1]):
        brackets, inner = text[0] + text[-1], text[1:-1]
    items = _split_at_separators(inner)
    if len(items) == 1 and (match := _PLUS_MINUS.match(items[0])):
        items = [f"{match['left']}{sign}{match['right']}".removeprefix("+") for sign in "+-"]
    if len(items) < 2 or not all(items):
        return None
    return AnswerList("" if brackets == "{}" else brackets, tuple(items))


def list_items(answer: str) -> list[str]:
    """The items of an answer that is a list, a single item included; empty without items or the closing bracket."""
    text = normalize(answer)
    listed = split_list(text)
    if listed is not None:
        return list(listed.items)
    if text[:1] == "[":
        text = text[1:-1] if text[-1:] == "]" else ""
    item = strip_edges(text)
    return [item] if item else []


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _split_at_separators(text: str) -> list[str]:
    pieces = _SEPARATORS.split(text)
    depths = [0]
    for piece in pieces:
        depths.append(depths[-1] + (piece in ("(", "[", "{")) - (piece in (")", "]", "}")))
    at_top = {piece for piece, depth in zip(pieces, depths[1:], strict=True) if depth == 0}
    # "p = 5, q = 2; p = 7, q = 2" is a list of two lists.
    separators = (";",) if {",", ";"} <= at_top else (",", ";", "and", "or")
    items = [""]
    for piece, depth in zip(pieces, depths[1:], strict=True):
        if depth == 0 and piece in separators:
            items.append("")
        else:
            items[-1] += piece
    stripped = [strip_edges(item) for item in items]
    # "a, b, and c" leaves an empty item between the comma and the word.
    return [item for number, item in enumerate(stripped) if item or number in (0, len(stripped) - 1)]
