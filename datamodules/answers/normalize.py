"""One spelling for one answer: LaTeX commands, Unicode signs and spaces that change nothing are removed."""

from __future__ import annotations

import re
from functools import lru_cache

_SIGNS = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
    | dict.fromkeys("−‐‑‒–—﹣", "-")
    | dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u3000\t\r\n", " ")
    | dict.fromkeys("\u200b\u200c\u200d\ufeff")
    | {
        "×": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "÷": "\\div ",
        "±": "\\pm ",
        "π": "\\pi ",
        "∞": "\\infty ",
        "½": "\\frac{1}{2}",
        "¼": "\\frac{1}{4}",
        "¾": "\\frac{3}{4}",
        "⅓": "\\frac{1}{3}",
        "⅔": "\\frac{2}{3}",
        "⅛": "\\frac{1}{8}",
        "⁄": "/",
        "∕": "/",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "≈": "\\approx ",
        "∈": "\\in ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∠": "\\angle ",
        "△": "\\triangle ",
        "℃": "°C",
        "º": "°",
        "˚": "°",
        "μ": "µ",
        "Ω": "Ω",  # the sign of the unit, and the Greek letter
        "、": ",",
        "‘": "'",
        "’": "'",
        "′": "'",
        "掳": "°",  # the degree sign, read as GBK, in released golds
        "∶": ":",
        "…": "\\ldots ",
    }
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SMALL_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉", "0123456789-0123456789")
_ROOT_SIGN = re.compile(
    r"(?:√|(?<![A-Za-z\\])sqrt(?![A-Za-z]))\s*(?:(\d+(?:\.\d+)?|[A-Za-z])|\(([^()]*)\)|\{([^{}]*)\})?"
)
_PI = re.compile(r"(?<![A-Za-z\\])[Pp]i(?![A-Za-z])")

_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|textup|mathrm|mathbf|mathit|mathsf|operatorname|mbox|hbox"
    r"|emph|underline|boldsymbol|bm)\s*\{(?P<inside>(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}"
)
_LATEX_THOUSANDS = re.compile(r"(?<=\d)(?:,?\\[,!;:]|\{,\}|~) ?(?=\d{3}(?!\d))")
_SPACED_THOUSANDS = re.compile(r"(?<![\w.,/}^])(?<!\d )\d{1,3}(?: \d{3})+(?![\d/]| \d)")
_SPACING_COMMAND = re.compile(
    r"(?<!\\)\\(?:[,;:! ]|quad\b|qquad\b|displaystyle\b|left\b\.?|right\b\.?|[Bb]igg?[lr]?\b|limits\b)|~"
)
_DEGREE = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\(?:text)?degree\b|\^\s*\{?°\}?)")
_MONEY = re.compile(r"\\?\$|[€£¥]")
_APPROXIMATELY = re.compile(
    r"^(?:\\approx(?![A-Za-z])|(?:approximately|approx\.?|about|roughly|around)\s)\s*(?=[-\d.\\])", re.IGNORECASE
)
_INFINITY = re.compile(r"(?:\+\s*)?(?:\\infty(?![A-Za-z])|(?<![A-Za-z\\])[Ii]nfinity(?![A-Za-z]))")
_MATRIX = re.compile(
    r"(?:\\left\s*)?[\[(]?\s*\\begin\s*\{(?P<kind>array|[pb]?matrix)\}(?:\{[lcr| ]*\})?(?P<inside>.*?)(?:\\\\\s*)?"
    r"\\end\s*\{(?P=kind)\}\s*(?:\\right\s*)?[\])]?",
    re.DOTALL,
)
_LEADING_EQUALS = re.compile(r"^=\s*(?=[^\s=])")
_MINUS_POWER = re.compile(r"\^\s*-\s*(\d+|[A-Za-z])(?![\d.A-Za-z])")
_POWER_ASTERISKS = re.compile(r"(?<=[\w)])\*\*(?=[\d({-])")
_EDGE_CHARACTERS = " \t\r\n\"'`*“”"


def unwrap_text_commands(text: str) -> str:
    r"""Replace ``\text{x}``, ``\mathbf{x}`` and their like by ``x`` between spaces, nested ones too."""
    while True:
        unwrapped = _TEXT_COMMAND.sub(r" \g<inside> ", text)
        if unwrapped == text:
            return text
        text = unwrapped


def remove_emphasis(text: str) -> str:
    """Remove the asterisks of bold text; in ``x**2`` they are a power and become ``^``."""
    if "**" not in text:
        return text
    return _POWER_ASTERISKS.sub("^", text).replace("**", "")


def strip_edges(text: str) -> str:
    """Remove spaces, quotes, asterisks and final full stops around an answer."""
    while True:
        stripped = text.strip(_EDGE_CHARACTERS)
        if stripped.endswith((".", "。")) and not stripped.endswith(("..", "\\right.")):
            stripped = stripped[:-1]
        if stripped == text:
            return text
        text = stripped


@lru_cache(maxsize=16384)
def normalize(text: str) -> str:
    """Bring an answer into one spelling: LaTeX without spacing commands, ASCII signs, single spaces.

    Money signs, thousands separators other than commas, and "about" before a number disappear; ``%`` and ``°`` stay, as
    units.
    """
    if not text.isascii():
        text = text.translate(_SIGNS)
        text = _SUPERSCRIPT.sub(lambda match: f"^{{{match.group().translate(_SMALL_DIGITS)}}}", text)
        text = _SUBSCRIPT.sub(lambda match: f"_{{{match.group().translate(_SMALL_DIGITS)}}}", text)
    text = unwrap_text_commands(text.replace("\\boxed{", "\\text{") if "\\boxed{" in text else text)
    text = _LATEX_THOUSANDS.sub("", text)
    text = _MATRIX.sub(r"\\begin{pmatrix}\g<inside>\\end{pmatrix}", text) if "\\begin" in text else text
    text = re.sub(r"\s*\{,\s*\}", ",", text).replace("\\%", "%").replace("\\(", "").replace("\\)", "")
    text = remove_emphasis(text.replace("\\[", "").replace("\\]", ""))
    text = _DEGREE.sub("°", text)
    text = _SPACING_COMMAND.sub(" ", text)
    text = _MONEY.sub("", text)
    text = _ROOT_SIGN.sub(_root, text)
    text = _PI.sub(r"\\pi ", text)
    text = re.sub(r"\\[dtc]frac\b|\\[dtc]frac(?=\d)", r"\\frac", text)
    text = re.sub(r"\\([lg])e(?:q|qslant)(?![A-Za-z])", r"\\\1e", text)
    text = _MINUS_POWER.sub(r"^{-\1}", re.sub(r"\s*\^\s*", "^", text))
    text = _INFINITY.sub(r"\\infty ", text)
    text = _APPROXIMATELY.sub("", _LEADING_EQUALS.sub("", strip_edges(" ".join(text.split()))))
    return _SPACED_THOUSANDS.sub(lambda match: match.group().replace(" ", ""), text)


def _root(match: re.Match[str]) -> str:
    radicand = match[1] or match[2] or match[3]
    return rf"\sqrt{{{radicand}}}" if radicand else r"\sqrt "


@lru_cache(maxsize=16384)
def text_key(normalized: str) -> str:
    """What two answers must share to be equal as text: case, articles and spaces beside signs do not count."""
    key = re.sub(r"^(?:the|an?)\s+(?=[a-z]{3})", "", normalized.casefold())
    key = re.sub(r"([_^])\{(\w)\}", r"\1\2", key)
    key = re.sub(r"(?<![^\W_])\s+|\s+(?![^\W_])", "", key).strip("?;:,")
    if "°" in key:
        key = re.sub(r"(?<=[a-z]) (?=\d)|(?<=\d) (?=[a-z])", "", key)  # the bearing N 30° E
    word = key.rstrip("!")
    return word if len(word) > 1 and word.isalpha() else key  # n! is a factorial
