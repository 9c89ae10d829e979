"""Answers that name what they are the value of: ``x = 5``, ``5 = s``, ``(x, y) = (1, 2)``, ``AB : CD = 2``."""

from __future__ import annotations

import re

_LETTERS = r"[A-Za-z]{1,4}\d?"
_IDENTIFIER = (
    r"(?:m\s*)?(?:\\(?:angle|triangle|overline|widehat|vec|bar|hat|Delta)(?![A-Za-z])\s*)*"
    rf"(?:\{{\s*{_LETTERS}\s*\}}|\\[A-Za-z]+|[A-Za-z][A-Za-z0-9]{{0,9}})"
    r"(?:_(?:\{[^{}=]{1,20}\}|\w))?'{0,2}"
)
_ARGUMENT = r"\([A-Za-z0-9,.\\ +-]{1,20}\)"
_NAME = (
    rf"(?:{_IDENTIFIER}(?:\s*{_ARGUMENT})?|\|\s*{_IDENTIFIER}\s*\||\\frac\s*\{{\s*{_IDENTIFIER}\s*\}}\s*\{{\s*{_IDENTIFIER}"
    rf"\s*\}}|{_LETTERS}\s*/\s*{_LETTERS})"
)
_NAMES = (
    rf"(?:{_NAME}(?:\s*:\s*{_NAME})*|[(\[]\s*{_NAME}(?:\s*,\s*{_NAME})+\s*[)\]]"
    r"|[A-Za-z][A-Za-z ]{1,40}(?:\([A-Za-z. ]{1,12}\))?)"
)
_EQUALS = r"\s*(?:=|\\in(?![A-Za-z])|\\approx(?![A-Za-z]))\s*"
_NAME_FIRST = re.compile(rf"(?P<name>{_NAMES}){_EQUALS}(?P<value>[^=<>]+)")
_NAME_LAST = re.compile(rf"(?P<value>[^=<>]*\d[^=<>]*?)\s*=\s*(?P<name>{_NAME})")


def named_value(text: str) -> tuple[str, str]:
    """The name, without spaces, and the value of a normalised answer; no name where it is not of that form."""
    match = _NAME_FIRST.fullmatch(text) or _NAME_LAST.fullmatch(text)
    if match is None:
        return "", text
    name = re.sub(r"[\s{}]", "", match["name"])
    return name, match["value"].strip()


def drop_names(prediction: str, gold: str) -> tuple[str, str]:
    """Two normalised answers without their left sides, where only one has such, or both have the same.

    An answer that has an equals sign but is not of the form keeps the other one as it is, too.
    """
    names, values = zip(named_value(prediction), named_value(gold), strict=True)
    if names[0] and names[1]:
        return (values[0], values[1]) if names[0] == names[1] else (prediction, gold)
    if "=" in values[0] or "=" in values[1]:
        return prediction, gold
    return values[0], values[1]
