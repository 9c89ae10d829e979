"""The number that an answer states."""

from __future__ import annotations

import re
from fractions import Fraction

from datamodules.answers.colons import has_colon
from datamodules.answers.extract import ExtractedAnswer, clean
from datamodules.answers.last_line import value_in_sentence
from datamodules.answers.normalize import normalize
from datamodules.answers.numbers import Value, number_value
from datamodules.answers.sentences import concludes, is_condition, is_undecided, split_sentences
from datamodules.answers.statements import has_numbers, stated_number
from datamodules.answers.units import PERCENT, Quantity, parse_quantity

_NUMBER = re.compile(
    r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?|(?<![\w.])-?\.\d+"
)
_RELATION = re.compile(r"[<>]|\\(?:[lg]e|[lg]t|ne)(?![A-Za-z])")
_BOLD = re.compile(r"\*\*(?P<inside>[^*\n]{1,60})\*\*")
_AT_START = re.compile(
    r"(?P<quantity>-?\d[\d,]*(?:\.\d+)?(?:\s*(?:%|°|[A-Za-z]+(?:\^?\d)?))?)\s*(?:,|\(|\b(?:with|for"
    r"|because|as|since|in|and so|units?)\b)"
)
_FUNCTION_VALUE = re.compile(r"\b[A-Za-z]\(\s*-?[\d.]+\s*\)")


def numeric_answer(answer: str) -> Value | None:
    """The number in a final-answer cut.

    Read as a number with an optional unit; else what stands behind the last equals or approximately sign; else the only
    number in the text.

    Returns:
        Its value; None if there is no number, or several and none of them is marked.
    """
    quantity = _stated_quantity(normalize(answer))
    return quantity.value if quantity else None


def read_number(extracted: ExtractedAnswer, question: str = "") -> Quantity | None:
    """The number that a response answers with.

    The number of the cut, see :func:`numeric_answer`, unless the cut is a sentence. Then in turn: the number that the
    line behind "the answer is" begins with; the only number in bold type of the last or of all sentences; and what the
    last, the concluding ("therefore ...") or the first sentence states, see
    :func:`datamodules.answers.statements.stated_number`.

    Args:
        extracted: The cut, with the line and the response that it stands in.
        question: As asked; of several numbers, those that it gives are not the answer.
    """
    text = normalize(extracted.text)
    bold = _only_bold(extracted.body) if extracted.status == "last_line" else None
    quantity = bold or _plain_quantity(text)
    if quantity is not None or extracted.status in ("boxed", "tag", "none"):
        return quantity or _stated_quantity(text)
    if extracted.status == "marker":
        at_start = _AT_START.match(normalize(extracted.line))
        quantity = _plain_quantity(at_start["quantity"]) if at_start else None
        return quantity or _number_of_sentence(extracted.line, question)
    return _number_in_sentences(extracted.body, question)


def integers_equal(answer: Quantity, gold: Value) -> bool:
    """Whether two numbers agree when cut off to whole ones, as MathVista's official rule does."""
    return int(answer.value) == int(gold)


def decimals_equal(answer: Quantity, gold: Value, decimals: int) -> bool:
    """Whether two numbers agree when rounded to ``decimals`` places; 25 % is also 0.25."""
    return any(round(float(value), decimals) == round(float(gold), decimals) for value in _values(answer))


def numbers_within(answer: Quantity, gold: Value, tolerance: float) -> bool:
    """Whether two numbers differ by at most ``tolerance``; at the limit they still agree; 25 % is also 0.25."""
    bound = Fraction(str(tolerance)) + Fraction(1, 10**9)
    return any(abs(Fraction(value) - Fraction(gold)) <= bound for value in _values(answer))


def _values(answer: Quantity) -> list[Value]:
    return [answer.value, answer.value * Fraction(1, 100)] if answer.unit == PERCENT else [answer.value]


def _plain_quantity(text: str) -> Quantity | None:
    """A normalised text that is a quantity, or that comes to one behind its last equals sign."""
    if has_colon(text) or _RELATION.search(text):
        return None
    for part in (text, re.split(r"=|≈|\\approx(?![A-Za-z])", text)[-1].strip()):
        quantity = parse_quantity(part)
        if quantity is not None:
            return quantity
    return None


def _stated_quantity(text: str) -> Quantity | None:
    quantity = _plain_quantity(text)
    if quantity is not None or has_colon(text) or _RELATION.search(text):
        return quantity
    numbers = set(_NUMBER.findall(_FUNCTION_VALUE.sub(" ", text)))
    value = number_value(numbers.pop()) if len(numbers) == 1 else None
    return None if value is None else Quantity(value, "")


def _number_in_sentences(body: str, question: str) -> Quantity | None:
    sentences = split_sentences(body)
    if not sentences or is_undecided(sentences[-1]):
        return None
    bold = _only_bold(sentences[-1])
    if bold is not None:
        return bold
    order = [
        sentences[-1],
        *[sentence for sentence in reversed(sentences[:-1]) if concludes(sentence)][:1],
        sentences[0],
    ]
    for sentence in dict.fromkeys(order):
        if is_condition(sentence) or "|" in sentence:  # a row of a table
            continue
        quantity = _number_of_sentence(clean(sentence), question)
        if quantity is not None or (has_numbers(sentence) and concludes(sentence)):
            return quantity
    return None


def _only_bold(text: str) -> Quantity | None:
    bold = {inside for inside in map(clean, _BOLD.findall(text)) if _plain_quantity(normalize(inside))}
    return _plain_quantity(normalize(bold.pop())) if len(bold) == 1 else None


def _number_of_sentence(sentence: str, question: str) -> Quantity | None:
    """The value that a sentence ends with, else the only number that it states."""
    if is_undecided(sentence):
        return None
    value = normalize(value_in_sentence(sentence))
    if has_colon(value) or _RELATION.search(value):
        return None
    number = _plain_quantity(value) if value else None
    if number is not None:
        return number
    stated = stated_number(_FUNCTION_VALUE.sub(" ", normalize(sentence)), question)
    return None if stated is None else Quantity(stated, "")
