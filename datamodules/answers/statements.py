"""What a sentence of prose states: one of several texts, or a number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from datamodules.answers.colons import has_colon
from datamodules.answers.last_line import is_value, value_in_sentence
from datamodules.answers.normalize import normalize, text_key
from datamodules.answers.number_words import NUMBER_WORDS, SCALES, number_in_words
from datamodules.answers.numbers import Value, number_value, values_equal
from datamodules.answers.sentences import without_lead
from datamodules.answers.units import PERCENT, parse_quantity, quantities_equal

_NUMBER = r"(?<![\w.\\^_{(-])-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?![\d:]|\.\d|\w*[_^(])|(?<![\w.])-?\.\d+"
_RESULT = re.compile(rf".*=\s*[$€£]?(?P<number>{_NUMBER})(?:\s*[%°])?(?![^=]*\d)", re.DOTALL)
_STATED = re.compile(
    rf"(?P<digits>{_NUMBER})(?:\s*(?P<scale>{'|'.join(SCALES)})\b)?|(?<![\w-])(?P<words>{NUMBER_WORDS})(?![\w-])",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:between\s+[\d.,]+\s+and|than|least|most|above|below|over|under|between|exceed(?:s|ing)?"
    r"|up to|from|to|within|minimum of|maximum of|out of"
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
_EACH = re.compile(
    rf"\beach\s+(?:\w+\s+){{1,2}}?(?:contain(?:s|ing)?|ha(?:s|ving)|holds?|holding|gets?|getting|with)\s+"
    rf"(?:exactly\s+|only\s+)?(?P<number>{_NUMBER}|{NUMBER_WORDS})(?![\w-])",
    re.IGNORECASE,
)
_IN_EACH_ASKED = re.compile(r"(?:\(_\)|\bhow many)\s[^.?]*\b(?:in|on|for|do|does|will)\s+each\b", re.IGNORECASE)
_OTHER = re.compile(
    r"\b(?:than|from|to|since|with|after|before|until|unlike|not|or|and)\s+(?:the\s+|in\s+)*$", re.IGNORECASE
)
_ASKED_NOUN = re.compile(
    r"\b(?:which|what)\s+(?P<noun>week|day|month|quarter|round|trial|game|test|group|row)\b", re.IGNORECASE
)
_LITTLE_WORDS = frozenset({"the", "a", "an"})
_INTRODUCES = re.compile(r"^[^=]*\b(?:is|are|be|at|in|by|of|when|between)\s+$")
_SHOWN = re.compile(r",\s+as\s+(?:is\s+)?(?:shown|seen|indicated|depicted)\b[^,]*$", re.IGNORECASE)
_HEDGES = frozenset({"likely", "probably", "possibly", "potentially", "also", "most", "thus", "therefore"})
_SUBJECT_ASKED = re.compile(
    r"\bhappens?\s+to\s+(?P<subject>[^,?]+?)(?=\s+(?:if|when|in case|as|after)\b|\s*[,?]|$)", re.IGNORECASE
)
_PRONOUN = re.compile(r"^(?:it|they)\s+(?:also\s+)?(?=(?:would|will|can|may)\b)", re.IGNORECASE)


def option_in_sentence(sentence: str, options: Mapping[str, str], question: str) -> str | None:
    """The one option whose text a sentence contains as whole words, or whose number it states; None otherwise."""
    sentence = _SHOWN.sub("", sentence)
    named = _told_options(sentence, options, question) or _formulas_at_end(sentence, options)
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
        letter
        for letter, item in quantities.items()
        if item and number is not None and values_equal(item.value, number)
    ]
    return found[0] if len(found) == 1 else None


def _told_options(sentence: str, options: Mapping[str, str], question: str) -> set[str]:
    """Letters of the options whose words stand in a sentence, one behind the other; the longer of two such.

    If none does, hedges are passed over ("will likely fall"), and the pronoun of an option ("it would fall") stands for
    what the question asks about ("what would happen to the level").
    """
    told = {letter: text for letter, text in options.items() if _is_told(text)}
    named = _contained(_words(sentence), {letter: _words(text) for letter, text in told.items()})
    if named:
        return named
    subject = _SUBJECT_ASKED.search(bare_question(question))
    if subject:
        told = {letter: _PRONOUN.sub(lambda _: f"{subject['subject']} ", text) for letter, text in told.items()}
    return _contained(_bare_words(sentence), {letter: _bare_words(text) for letter, text in told.items()})


def _contained(words: list[str], parts: Mapping[str, list[str]]) -> set[str]:
    named = {letter for letter, part in parts.items() if _contains(words, part)}
    return {letter for letter in named if not any(_is_part(parts[letter], parts[other]) for other in named)}


def _formulas_at_end(sentence: str, options: Mapping[str, str]) -> set[str]:
    """Letters of the options, equations or ranges, that a sentence ends with as written."""
    found = set()
    for letter, option in options.items():
        text, end = normalize(option), normalize(sentence).rstrip(" .")
        if re.search(r"=|\d\s*-\s*\d", text) and end.endswith(text) and _INTRODUCES.search(end.removesuffix(text)):
            found.add(letter)
    return found


def _states(value: str, option: str) -> bool:
    """Whether a value is that of an option, in the same unit or without one of the two units."""
    value, option = normalize(value), normalize(option)
    if has_colon(option) or has_colon(value):
        return text_key(value) == text_key(option)
    first, second = parse_quantity(value), parse_quantity(option)
    if first is None or second is None:
        return text_key(value) == text_key(option) != ""
    return quantities_equal(first, second) and (PERCENT in (first.unit, second.unit)) <= values_equal(
        first.value, second.value
    )


def _is_told(option: str) -> bool:
    """Whether an option's text is long enough to be found in a sentence: a word, no number, no letter."""
    return re.search(r"[A-Za-z]{3,}|[\u4e00-\u9fff]{2,}", option) is not None and not parse_quantity(normalize(option))


def _words(text: str) -> list[str]:
    words = re.findall(r"[\w.%$€£]+(?:['’-]\w+)*", normalize(text).lower())
    words = [word for word in (word.strip(".") for word in words) if word and word not in _LITTLE_WORDS]
    return words


def _bare_words(text: str) -> list[str]:
    return [word for word in _words(text) if word not in _HEDGES]


def _contains(words: list[str], part: list[str]) -> bool:
    places = range(len(words) - len(part) + 1) if part else ()
    return any(all(map(_is_word_of, words[place:], part)) for place in places)


def _is_word_of(word: str, option: str) -> bool:
    """Whether two words are the same, or the first the singular of the second; not a verb's third person."""
    return word == option or f"{word}s" == option


def _is_part(words: list[str], longer: list[str]) -> bool:
    return len(words) < len(longer) and _contains(longer, words)


def stated_number(sentence: str, question: str = "") -> Value | None:
    """The number that a sentence states; None if there is none or more than one.

    What stands behind the last equals sign is it, and the number behind "there are", if it is the only one. Else
    numbers that are bounds ("at least 80", "smaller than 0") and those that the question gives are left out; one must
    remain. Where a year is asked for, the only year is it; where a week or the like, the only number behind that word;
    where the share of each is asked for, the number behind "each group contains".

    Args:
        sentence: Cleaned of markup.
        question: As asked; empty if not known.
    """
    sentence = without_lead(sentence)
    result = _RESULT.match(sentence)
    if result:
        return number_value(result["number"])
    named = _number_as_asked(sentence, bare_question(question))
    if named is not None:
        return named
    given = {number_value(match.group()) for match in re.finditer(_NUMBER, bare_question(question))}
    values: dict[Value, bool] = {}
    counted = None
    for match in _STATED.finditer(sentence):
        value, before = _value(match), sentence[: match.start()]
        if value is None:
            continue
        if not values and _THERE.fullmatch(before):
            counted = value
        elif (match["words"] and match["words"].lower() == "one") or _BOUND.search(before):
            continue
        values.setdefault(value, match["digits"] is not None)
    if counted is not None:
        return counted if all(value == counted or value in given for value in values) else None
    if _YEAR_ASKED.search(bare_question(question)):
        years = {value for value in values if isinstance(value, Fraction) and _YEAR.fullmatch(str(value))}
        if len(years) == 1:
            return years.pop()
    values = {value: is_digit for value, is_digit in values.items() if value not in given}
    return next(iter(values)) if len(values) == 1 else None


def _number_as_asked(sentence: str, question: str) -> Value | None:
    """The number behind the word that is asked for: 3 of "it peaks in week 3" where the question is "which week"."""
    noun, is_each = _ASKED_NOUN.search(question), _IN_EACH_ASKED.search(question)
    found: set[Value | None] = set()
    if noun and not re.search(rf"\b{noun['noun']}s\s+\d", sentence, re.IGNORECASE):
        matches = re.finditer(rf"\b{noun['noun']}\s+(?P<number>\d+)\b", sentence, re.IGNORECASE)
        found = {number_value(match["number"]) for match in matches if not _OTHER.search(sentence[: match.start()])}
    elif is_each:
        found = {_number_or_words(match["number"]) for match in _EACH.finditer(sentence)}
    return found.pop() if len(found) == 1 else None


def _number_or_words(text: str) -> Value | None:
    return number_in_words(text) if text[0].isalpha() else number_value(text)


def bare_question(question: str) -> str:
    """A question without the hint in front and without the options and whatever else follows."""
    question = question.rpartition("Question:")[2]
    question = re.split(r"\s(?:Choices|Options|Solution)\s*:", question)[0]
    return re.split(r"\s\(?A\s*[).:]\s*\S", question)[0]


def has_numbers(sentence: str) -> bool:
    """Whether a sentence has any number in it, in digits or words."""
    return any(match["digits"] or match["words"].lower() != "one" for match in _STATED.finditer(sentence))


def _value(match: re.Match[str]) -> Value | None:
    if not match["digits"]:
        return number_in_words(match["words"])
    value = number_value(match["digits"])
    return value * SCALES[match["scale"].lower()] if value is not None and match["scale"] else value
