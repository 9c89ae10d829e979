"""What a sentence of prose states: one of several texts, or a number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from datamodules.answers.colons import has_colon
from datamodules.answers.last_line import is_value, value_in_sentence
from datamodules.answers.normalize import normalize, text_key
from datamodules.answers.number_words import NUMBER_WORDS, number_in_words
from datamodules.answers.numbers import Value, number_value, values_equal
from datamodules.answers.sentences import without_lead
from datamodules.answers.units import parse_quantity

_NUMBER = (
    r"(?<![\w.\\^_{(-])-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?![\d:]|\.\d|\w*[_^(])|(?<![\w.])-?\.\d+"
)
_STATED = re.compile(rf"(?P<digits>{_NUMBER})|(?<![\w-])(?P<words>{NUMBER_WORDS})(?![\w-])", re.IGNORECASE)
_BOUND = re.compile(
    r"(?:than|least|most|above|below|over|under|between|exceed(?:s|ing)?|up to|from|to|within|minimum of|maximum of|out of"
    r"|divided by|times|option|step|figure|question|one of the)\s+(?:the\s+|or equal to\s+)?[$€£]?$",
    re.IGNORECASE,
)
_THERE = re.compile(
    r"\W*(?:there\s+(?:is|are|was|were|will be)|(?:i|we)\s+(?:can\s+)?(?:see|count|counted|found|find))\s+"
    r"(?:(?:a total of|only|exactly|about|approximately|in total)\s+)?\W*$",
    re.IGNORECASE,
)
_YEAR_ASKED = re.compile(r"\b(?:which|what|in what)\s+year\b|\bwhen\b", re.IGNORECASE)
_YEAR = re.compile(r"(?:1[5-9]|20)\d\d")
_LITTLE_WORDS = frozenset({"the", "a", "an"})


def option_in_sentence(sentence: str, options: Mapping[str, str], question: str) -> str | None:
    """The one option whose text a sentence contains as whole words, or whose number it states; None otherwise."""
    words = _words(sentence)
    named = {letter for letter, text in options.items() if _is_told(text) and _contains(words, _words(text))}
    named = {letter for letter in named if not any(_is_part(options[letter], options[other]) for other in named - {letter})}
    if named:
        return named.pop() if len(named) == 1 else None
    value = value_in_sentence(sentence)
    by_value = [letter for letter, text in options.items() if value and _states(value, text)]
    if len(by_value) == 1:
        return by_value[0]
    if value and is_value(value):
        return None
    quantities = {letter: parse_quantity(normalize(text)) for letter, text in options.items()}
    if not options or not all(quantities.values()):
        return None
    number = stated_number(sentence, question)
    found = [
        letter for letter, item in quantities.items() if item and number is not None and values_equal(item.value, number)
    ]
    return found[0] if len(found) == 1 else None


def _states(value: str, option: str) -> bool:
    """Whether a value is that of an option, in the same unit or without one of the two units."""
    value, option = normalize(value), normalize(option)
    if has_colon(option) or has_colon(value):
        return text_key(value) == text_key(option)
    first, second = parse_quantity(value), parse_quantity(option)
    if first is None or second is None:
        return text_key(value) == text_key(option) != ""
    return (not first.unit or not second.unit or first.unit == second.unit) and values_equal(first.value, second.value)


def _is_told(option: str) -> bool:
    """Whether an option's text is long enough to be found in a sentence: a word, no number, no letter."""
    return re.search(r"[A-Za-z]{3,}|[\u4e00-\u9fff]{2,}", option) is not None and not parse_quantity(normalize(option))


def _words(text: str) -> list[str]:
    words = re.findall(r"[\w.%$€£]+(?:['’-]\w+)*", normalize(text).lower())
    return [word for word in (word.strip(".") for word in words) if word and word not in _LITTLE_WORDS]


def _contains(words: list[str], part: list[str]) -> bool:
    return bool(part) and any(words[begin : begin + len(part)] == part for begin in range(len(words) - len(part) + 1))


def _is_part(option: str, other: str) -> bool:
    words, longer = _words(option), _words(other)
    return len(words) < len(longer) and _contains(longer, words)


def stated_number(sentence: str, question: str = "") -> Value | None:
    """The number that a sentence states; None if there is none or more than one.

    A number behind "there are" is it. Else numbers that are bounds ("at least 80", "smaller than 0") and, of several,
    those that the question gives are left out; of these one must remain. Where a year is asked for, the only year is it.

    Args:
        sentence: Cleaned of markup.
        question: As asked; empty if not known.
    """
    sentence = without_lead(sentence)
    matches = list(_STATED.finditer(sentence))
    for match in matches:
        if _THERE.fullmatch(sentence[: match.start()]):
            return _value(match)
    values: dict[Value, bool] = {}
    for match in matches:
        value = _value(match)
        if value is None or (match["words"] and match["words"].lower() == "one"):
            continue
        if not _BOUND.search(sentence[: match.start()]):
            values.setdefault(value, match["digits"] is not None)
    if _YEAR_ASKED.search(question):
        years = {value for value in values if isinstance(value, Fraction) and _YEAR.fullmatch(str(value))}
        if len(years) == 1:
            return years.pop()
    if len(values) > 1:
        given = {number_value(match.group().replace(",", "")) for match in re.finditer(_NUMBER, question)}
        values = {value: is_digit for value, is_digit in values.items() if value not in given}
    return next(iter(values)) if len(values) == 1 else None


def _value(match: re.Match[str]) -> Value | None:
    return number_value(match["digits"]) if match["digits"] else number_in_words(match["words"])
