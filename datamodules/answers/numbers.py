r"""The value of a numeric answer, computed by a small parser of arithmetic and LaTeX: never `eval`, always bounded.

Understands ``-1,234.5``, ``3/4``, ``1\frac{1}{2}``, ``2.5 \times 10^{-3}``, ``\frac{2\pi}{3}``, ``2\sqrt3``, and sums,
products and powers of these. Numbers in words are read by :mod:`datamodules.answers.number_words`. Anything else,
letters for instance, has no value here. No library does it: SymPy's parsers evaluate whatever they read, without a
bound on powers.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache

from datamodules.answers.number_words import number_in_words

Value = Fraction | float

MAX_LENGTH = 200
MAX_DEPTH = 40
MAX_BITS = 4096
"""Exact numbers with more binary digits than this turn into floats."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<exponent>[eE][+-]?\d{1,3}(?![\d.]))?"
    r"|\\(?P<command>frac|sqrt|pi|cdot|times|div)(?![a-zA-Z])"
    r"|(?P<word>sqrt|pi)(?![a-zA-Z])"
    r"|(?P<sign>\*\*|[-+*/^(){}\[\]]))"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar)\s*(?:\{(\d+)\}|(\d))")
_WORDS_ONLY = re.compile(r"[A-Za-z]{2,}(?:[ -][A-Za-z]+){0,11}")
_ORDINAL = re.compile(r"\d{1,9}(?:st|nd|rd|th)")


class _NotANumberError(Exception):
    """The text is no numeric expression."""


@lru_cache(maxsize=65536)
def number_value(text: str) -> Value | None:
    """The value of a normalised numeric expression.

    Args:
        text: As :func:`datamodules.answers.normalize.normalize` returns it.

    Returns:
        A fraction when the value is rational and not huge, else a float; None when it is not numeric or out of the
        range of floats.
    """
    if text[:1].isalpha() or _ORDINAL.fullmatch(text):
        value_in_words = number_in_words(text) if _WORDS_ONLY.fullmatch(text) or text[:1].isdigit() else None
        if value_in_words is not None:
            return value_in_words
    if len(text) > MAX_LENGTH or not text.isascii() or not any(sign.isdigit() or sign in "pi" for sign in text):
        return None
    text = _REPEATING.sub(_repeating_decimal, text)
    text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    try:
        value = _Parser(_tokenize(text)).parse()
        return value if math.isfinite(float(value)) else None
    except (_NotANumberError, ZeroDivisionError, OverflowError):
        return None


def values_equal(first: Value, second: Value, tolerance: float = 1e-6) -> bool:
    """Compare two values: whole numbers exactly, others within ``tolerance`` (relative for values below 1).

    The difference may be at most ``tolerance * min(1, max(|first|, |second|))``.
    """
    if isinstance(first, Fraction) and isinstance(second, Fraction) and first.denominator == second.denominator == 1:
        return first == second
    try:
        bound = Fraction(tolerance) * min(Fraction(1), max(abs(Fraction(first)), abs(Fraction(second))))
        return abs(Fraction(first) - Fraction(second)) <= bound
    except (OverflowError, ValueError):
        return False


def _repeating_decimal(match: re.Match[str]) -> str:
    r"""``0.1\overline{6}`` as a fraction: (16 - 1) / 90."""
    whole, fixed, period = match[1], match[2], match[3] or match[4]
    numerator = int(whole + fixed + period) - int(whole + fixed or "0")
    return f"({numerator}/{(10 ** len(period) - 1) * 10 ** len(fixed)})"


def _tokenize(text: str) -> list[tuple[str, str]]:
    tokens = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise _NotANumberError
        position = match.end()
        if match["number"]:
            tokens.append(("number", match["number"] + (match["exponent"] or "")))
        elif match["command"] or match["word"]:
            command = match["command"] or match["word"]
            sign = {"cdot": "*", "times": "*", "div": "/"}.get(command)
            tokens.append(("sign", sign) if sign else ("command", command))
        else:
            tokens.append(("sign", "^" if match["sign"] == "**" else match["sign"]))
    return tokens


class _Parser:
    """Recursive descent over tokens; sums of products of powers, products may be written without a sign."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0

    def parse(self) -> Value:
        value = self._sum()
        if self.position != len(self.tokens):
            raise _NotANumberError
        return value

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "")

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        self.position += 1
        return token

    def _accept(self, sign: str) -> bool:
        if self._peek() == ("sign", sign):
            self.position += 1
            return True
        return False

    def _sum(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NotANumberError
        value = self._product()
        while self._peek() in (("sign", "+"), ("sign", "-")):
            is_plus = self._take()[1] == "+"
            term = self._product()
            value = _bounded(value + term if is_plus else value - term)
        self.depth -= 1
        return value

    def _product(self) -> Value:
        negative = False
        while self._peek() in (("sign", "+"), ("sign", "-")):
            negative ^= self._take()[1] == "-"
        value = self._mixed_number()
        while True:
            if self._accept("*"):
                value = _bounded(value * self._signed_power())
            elif self._accept("/"):
                value = _bounded(value / self._signed_power())
            elif self._peek()[0] == "command" or self._peek() == ("sign", "("):
                value = _bounded(value * self._power())
            else:
                return -value if negative else value

    def _mixed_number(self) -> Value:
        r"""A power, or a whole number with a proper fraction written after it: ``1\frac{1}{2}`` or ``1 1/2``."""
        start = self.position
        kinds = [kind for kind, _ in self.tokens[start : start + 4]]
        texts = [text for _, text in self.tokens[start : start + 4]]
        if kinds == ["number", "number", "sign", "number"] and texts[2] == "/" and all(map(str.isdigit, texts[:2])):
            self.position += 4
            return Fraction(texts[0]) + Fraction(texts[1]) / Fraction(texts[3])
        whole = self._power()
        is_whole = self.position == start + 1 and kinds[0] == "number" and texts[0].isdigit()
        if is_whole and self._peek() == ("command", "frac"):
            part = self._power()
            is_proper = isinstance(part, Fraction) and 0 < part < 1
            return _bounded(whole + part if is_proper else whole * part)
        return whole

    def _signed_power(self) -> Value:
        if self._accept("-"):
            return -self._signed_power()
        self._accept("+")
        return self._power()

    def _power(self) -> Value:
        base = self._atom()
        if not self._accept("^"):
            return base
        return _raise(base, self._group() if self._peek() == ("sign", "{") else self._signed_power())

    def _atom(self) -> Value:
        kind, text = self._take()
        if kind == "number":
            return _bounded(Fraction(text))
        if (kind, text) == ("command", "pi"):
            return math.pi
        if (kind, text) == ("command", "sqrt"):
            return self._root()
        if (kind, text) == ("command", "frac"):
            numerator = self._argument()
            return _bounded(numerator / self._argument())
        if kind == "sign" and text in "({":
            self.position -= 1
            return self._group()
        raise _NotANumberError

    def _group(self) -> Value:
        closing = {"(": ")", "{": "}"}[self._take()[1]]
        value = self._sum()
        if not self._accept(closing):
            raise _NotANumberError
        return value

    def _argument(self) -> Value:
        r"""The argument of a command: a group in braces, or (as in ``\frac12``) one digit of a number."""
        kind, text = self._peek()
        if kind == "number" and len(text) > 1:
            if not text[0].isdigit():
                raise _NotANumberError
            self.tokens[self.position] = ("number", text[1:])
            return Fraction(text[0])
        return self._atom()

    def _root(self) -> Value:
        degree: Value = Fraction(2)
        if self._accept("["):
            degree = self._sum()
            if not self._accept("]"):
                raise _NotANumberError
        radicand = self._atom()
        if radicand < 0 or degree == 0:
            raise _NotANumberError
        if isinstance(radicand, Fraction) and degree == 2:
            roots = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
            if roots[0] ** 2 == radicand.numerator and roots[1] ** 2 == radicand.denominator:
                return Fraction(*roots)
        return float(float(radicand) ** (1.0 / float(degree)))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Value) -> Value:
    return float(value) if isinstance(value, Fraction) and _bits(value) > MAX_BITS else value


def _raise(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        if _bits(base) * abs(exponent.numerator) <= MAX_BITS:
            return base**exponent.numerator
    if base < 0 and not (isinstance(exponent, Fraction) and exponent.denominator == 1):
        raise _NotANumberError
    return float(float(base) ** float(exponent))
