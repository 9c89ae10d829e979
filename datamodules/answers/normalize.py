"""One spelling for one answer: LaTeX commands, Unicode signs and spaces that change nothing are removed."""

from __future__ import annotations

import re

_UNICODE_SIGNS = {
    "−": "-",
    "–": "-",
    "×": "\\times ",
    "·": "\\cdot ",
    "⋅": "\\cdot ",
    "÷": "\\div ",
    "π": "\\pi ",
    "√": "\\sqrt ",
    "∞": "\\infty ",
    "²": "^2",
    "³": "^3",
    "½": "\\frac{1}{2}",
    "¼": "\\frac{1}{4}",
    "¾": "\\frac{3}{4}",
    "≤": "\\le ",
    "≥": "\\ge ",
    "º": "°",
    "μ": "µ",
    "，": ",",
    "：": ":",
    "（": "(",
    "）": ")",
    "\u00a0": " ",
    "’": "'",
}

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|boldsymbol|bm)\s*\{([^{}]*)\}")
_SPACING_COMMAND = re.compile(
    r"\\(?:[,;:! ]|quad\b|qquad\b|displaystyle\b|left\b\.?|right\b\.?|big[lr]?\b|Big[lr]?\b)|~"
)
_DEGREE = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree\b|\^\s*\{?°\}?)")
_MONEY = re.compile(r"\\?\$|[€£¥]")
_EDGE_CHARACTERS = " \t\n\"'`*“”"


def unwrap_text_commands(text: str) -> str:
    r"""Replace ``\text{x}``, ``\mathbf{x}`` and their like by ``x`` between spaces, nested ones too."""
    while True:
        unwrapped = _TEXT_COMMAND.sub(r" \1 ", text)
        if unwrapped == text:
            return text
        text = unwrapped


def strip_edges(text: str) -> str:
    """Remove spaces, quotes, asterisks and final full stops around an answer."""
    while True:
        stripped = text.strip(_EDGE_CHARACTERS)
        if stripped.endswith((".", "。")) and not stripped.endswith(("..", "\\right.")):
            stripped = stripped[:-1]
        if stripped == text:
            return text
        text = stripped


def normalize(text: str) -> str:
    """Bring an answer into one spelling: LaTeX without spacing commands, ASCII signs, single spaces.

    Money signs disappear; ``%`` and ``°`` stay, as units.
    """
    for sign, spelling in _UNICODE_SIGNS.items():
        text = text.replace(sign, spelling)
    text = unwrap_text_commands(text)
    text = text.replace("{,}", ",").replace("\\%", "%").replace("\\(", "").replace("\\)", "").replace("**", "")
    text = text.replace("\\[", "").replace("\\]", "")
    text = _DEGREE.sub("°", text)
    text = _SPACING_COMMAND.sub(" ", text)
    text = _MONEY.sub("", text)
    text = re.sub(r"\\[dtc]frac\b|\\[dtc]frac(?=\d)", r"\\frac", text)
    return strip_edges(" ".join(text.split()))


def text_key(normalized: str) -> str:
    """What two answers must share to be equal as text: case, articles and spaces beside signs do not count."""
    key = re.sub(r"^(?:the|an?)\s+(?=[a-z]{3})", "", normalized.casefold())
    key = re.sub(r"(?<![^\W_])\s+|\s+(?![^\W_])", "", key).strip("?;:,")
    return key.rstrip("!") if key.rstrip("!").isalpha() else key
