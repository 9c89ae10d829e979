"""Options that a question lists in its own text."""

from __future__ import annotations

import re

from datamodules.benchmarks.question import OPTION_LETTERS

_STYLES = (
    re.compile(r"\(([A-I])\)\s*(.*?)(?=\s*[,;]?\s*\([A-I]\)|\s*\Z)", re.DOTALL),
    re.compile(r"^\s*([A-I])[.:)]\s*(.+?)\s*$", re.MULTILINE),
)


def options_in_text(question: str) -> dict[str, str]:
    """Options written as ``(A) text (B) text`` or as lines ``A. text``.

    Returns:
        Letter to text; empty unless the letters are A, B, ... without a gap or repetition.
    """
    for style in _STYLES:
        found = style.findall(question)
        letters = "".join(letter for letter, _ in found)
        if len(found) >= 2 and OPTION_LETTERS.startswith(letters):
            return {letter: text.strip() for letter, text in found}
    return {}
