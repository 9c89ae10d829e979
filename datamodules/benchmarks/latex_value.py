r"""The value of plain arithmetic in LaTeX, read without evaluating anything as code.

Numbers, ``+ - * /``, ``\times``, ``\cdot``, ``[0-9]iv``, ``:``, powers, ``\frac``, ``\sqrt[n]{}``, ``\pi``, brackets of
all kinds, ``|x|``, factorials and percent; dollar signs are passed over. Everything else, a letter for instance, has no
value.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_LENGTH = 200
MAX_BITS = 20_000
"""Of an exact power; beyond it there is no value."""
MAX_FACTORIAL = 170
MAX_DEPTH = 40

Number = Fraction | float
"""Rational as long as it can be, so that a quotient of huge powers has its value."""

_TOKEN = re.compile(
    r"\s*(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+|\\[a-z]+|[-+*/:^(){}\[\]|!%])"
)
_PRODUCTS = (r"\times", r"\cdot", "*")
_QUOTIENTS = (r"\div", "/", ":")
_CLOSING = {"(": ")", "{": "}", "[": "]", "|": "|"}


class _NoValueError(ValueError):
    """The text is not arithmetic."""


def value_of(text: str) -> float | None:
    r"""The value of an expression; None if it is not plain arithmetic, or has no finite real value.

    >>> value_of(r"2\sqrt{3}"), value_of("x+1")
    (3.4641016151377544, None)
    """
    if len(text) > MAX_LENGTH:
        return None
    try:
        reader = _Reader(_tokens(text))
        value = float(reader.sum())
        reader.expect_end()
    except (_NoValueError, ZeroDivisionError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _tokens(text: str) -> list[str]:
    tokens, place, text = [], 0, text.replace("$", "").rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _NoValueError(text[place])
        tokens.append(match.group().strip())
        place = match.end()
    return tokens


class _Reader:
    """Recursive descent over the tokens of an expression."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place, self.depth = tokens, 0, 0

    @property
    def next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        piece = self.next
        self.place += 1
        return piece

    def expect(self, piece: str) -> None:
        if self.take() != piece:
            raise _NoValueError(f"expected {piece}")

    def expect_end(self) -> None:
        if self.next:
            raise _NoValueError(f"unexpected {self.next}")

    def sum(self) -> Number:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NoValueError("too deep")
        value = self.product()
        while self.next in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        self.depth -= 1
        return value

    def product(self) -> Number:
        value = self.signed()
        while self.next:
            if self.next in _PRODUCTS:
                self.take()
                value *= self.signed()
            elif self.next in _QUOTIENTS:
                self.take()
                value /= self.signed()
            elif self._begins_factor(self.next):
                value *= self.power()
            else:
                break
        return value

    def signed(self) -> Number:
        sign = 1
        while self.next in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        return sign * self.power()

    def power(self) -> Number:
        base = self.postfixed()
        if self.next != "^":
            return base
        self.take()
        exponent = self._group() if self.next == "{" else self.signed()
        if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
            size = max(base.numerator.bit_length(), base.denominator.bit_length())
            if size * abs(exponent) > MAX_BITS:
                raise _NoValueError("too large")
            return base ** int(exponent)
        value = float(base) ** float(exponent)
        if isinstance(value, complex):
            raise _NoValueError("not real")
        return value

    def postfixed(self) -> Number:
        value = self.atom()
        while self.next in ("!", "%"):
            if self.take() == "%":
                value /= 100
            elif value < 0 or value > MAX_FACTORIAL or not float(value).is_integer():
                raise _NoValueError("no factorial")
            else:
                value = Fraction(math.factorial(int(value)))
        return value

    def atom(self) -> Number:
        piece = self.take()
        if piece[:1].isdigit() or piece[:1] == ".":
            return Fraction(piece.replace(",", ""))
        if piece == r"\pi":
            return math.pi
        if piece == r"\frac":
            above, below = self._argument(), self._argument()
            return above / below
        if piece == r"\sqrt":
            return self._root()
        if piece in _CLOSING:
            value = self.sum()
            self.expect(_CLOSING[piece])
            return -value if piece == "|" and value < 0 else value
        raise _NoValueError(piece)

    def _root(self) -> Number:
        degree: Number = Fraction(2)
        if self.next == "[":
            self.take()
            degree = self.sum()
            self.expect("]")
        radicand = self._argument()
        if radicand < 0:
            raise _NoValueError("not real")
        return float(radicand) ** (1 / float(degree))

    def _argument(self) -> Number:
        r"""What follows a command: a group, or in ``\frac12`` a single digit."""
        if self.next == "{":
            return self._group()
        piece = self.next
        if piece.isdigit() and len(piece) > 1:
            self.tokens[self.place : self.place + 1] = [piece[0], piece[1:]]
        return self.atom()

    def _group(self) -> Number:
        self.expect("{")
        value = self.sum()
        self.expect("}")
        return value

    @staticmethod
    def _begins_factor(piece: str) -> bool:
        return piece in ("(", "{", "[", r"\pi", r"\frac", r"\sqrt") or piece[:1].isdigit()
