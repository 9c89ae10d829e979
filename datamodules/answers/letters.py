"""Option letters in a final-answer cut."""

from __future__ import annotations

import re
from collections.abc import Mapping

from datamodules.answers.colons import sequence_terms
from datamodules.answers.normalize import normalize, text_key
from datamodules.answers.numbers import number_value, values_equal
from datamodules.answers.units import parse_quantity

OPTION_LETTERS = "ABCDEFGHI"

_GOES_ON = r"(?=\s+(?:is|are|because|since|as|which)\b)"
_ENDS = rf"(?:{_GOES_ON}|(?![\w'^]|\s*\w{{2,}}|\s*[=+*/^<>]))"


_NAMED = re.compile(
    rf"(?i:\b(?:options?|choices?|images?|figures?|answers?|scenarios?|pictures?|graphs?|proposals?|letters?)\s+\(?)([{OPTION_LETTERS}])\b"
    rf"|(?<!\w)\(\s*([{OPTION_LETTERS}])\s*\)|选项?\s*(?:为|是|：|:)?\s*\(?([{OPTION_LETTERS}])(?![A-Za-z])"
)


def names_option(text: str) -> bool:
    """Whether a text has an option letter in parentheses or behind "option"."""
    return _NAMED.search(text) is not None


def extract_letters(answer: str, letters: str) -> frozenset[str]:
    """Option letters that stand alone in a final-answer cut.

    Read as letters: an answer made of nothing but letters (``B``, ``(b)``, ``B, D``, ``B and D``, ``BD``; up to four
    without separators); else letters at the beginning that no other word follows (``B. 12 cm``, ``A and C are right``,
    but not ``A triangle``); else letters in parentheses; else letters behind "option" or "choice"; else a last word
    that is a letter, the only one in the cut, and introduced by "is", "so" or a comma.

    Args:
        answer: The cut.
        letters: The letters that may occur, upper-case.

    Returns:
        The letters, upper-case; empty if none is recognised.
    """
    text = normalize(answer)
    allowed = f"[{re.escape(letters)}]"
    any_case = f"[{re.escape(letters + letters.lower())}]"
    if re.fullmatch(rf"\W*{any_case}\W*", text):
        return frozenset(re.findall(r"\w", text.upper()))
    compact = re.sub(r"\b(?:and|or|options?|choices?)\b|[\W_]", "", text, flags=re.IGNORECASE)
    if re.fullmatch(rf"{allowed}+", compact) and len(set(compact)) == len(compact):
        is_word = re.fullmatch(r"\w{5,}", text) is not None
        return frozenset() if is_word else frozenset(compact)
    each = re.fullmatch(rf"\W*({any_case})(?:\W+(?:and\W+|or\W+)?({any_case}))+\W*", text)
    if each and re.search(r"[,;&]|\b(?:and|or)\b", text):
        return frozenset(
            re.findall(rf"(?<![A-Za-z])[{re.escape(letters + letters.lower())}](?![A-Za-z])", text.upper())
        )
    listed = rf"\(?{allowed}\)?(?:\s*(?:,|;|&|/|,?\s*\b(?:and|or)\b)\s*\(?{allowed}\b\)?)*"
    first = re.match(rf"\W*?(?:(?i:options?|choices?|answers?)\s+)?(?P<letters>{listed}){_ENDS}", text)
    if first:
        return frozenset(re.findall(rf"\b{allowed}\b", first["letters"]))
    for pattern in (
        rf"(?<!\w)\(\s*({allowed})\s*\)",
        rf"(?i:\b(?:option|choice|answer)s?)\s+(?:is\s+)?({allowed})\b(?!['’])",
    ):
        found = re.findall(pattern, text)
        if found:
            return frozenset(found)
    in_small = set(re.findall(rf"(?<!\w)\(([{letters.lower()}])\)|\b(?:option|choice) ([b-i])\b", text))
    small = {(first or second).upper() for first, second in in_small}
    if len(small) == 1 and small <= set(letters):
        return frozenset(small)
    alone = re.findall(rf"(?<![\w'’])(?!I\s+[a-z])({allowed})(?![\w'’])", text)
    introduced = rf"(?:\b(?:is|be|so|thus|therefore|choose|pick|select)|[,:])\s+{allowed}\W*$"
    if len(alone) == 1 and re.search(introduced, text):
        return frozenset(alone)
    return frozenset()


def extract_option(answer: str, options: Mapping[str, str], letters: str) -> str | None:
    """The one option that a final-answer cut names: by letter, by exactly its text, or by its number.

    A number without a unit names the one option with that number, since a free-form answer may leave its unit out, too;
    so does a number with a unit where the options have none; a number with another unit names none. A letter with a
    number behind it that is not that option's names none, either.

    Args:
        answer: The cut.
        options: Letter to text; may be empty when the texts are not known.
        letters: Letters that may occur, upper-case.

    Returns:
        The letter; None if no option or more than one is named. Nothing is guessed.
    """
    text = normalize(answer)
    if re.fullmatch(rf"\W*[{re.escape(letters)}]\W*", text) and not re.search(r"[!'^]", text):
        return re.sub(r"[\W_]", "", text)
    by_text = option_with_text(text, options)
    if by_text:
        return by_text
    lettered = re.match(rf"\W*([{re.escape(letters)}])\W+(.+)$", text)
    if lettered and lettered[1] in options:
        if is_option_text(lettered[2], options[lettered[1]]):
            return lettered[1]
        if _is_other_value(lettered[2], options[lettered[1]]):
            return None
    found = extract_letters(answer, letters)
    if found:
        return next(iter(found)) if len(found) == 1 else None
    by_number = [letter for letter, option in options.items() if _is_number_of(text, option)]
    return by_number[0] if len(by_number) == 1 else None


def option_with_text(answer: str, options: Mapping[str, str]) -> str | None:
    """The one option that an answer reads as, else the one that is the same number with the same unit."""
    text = normalize(answer)
    for is_same in (_is_same_text, _is_same_value):
        named = [letter for letter, option in options.items() if text and is_same(text, option)]
        if len(named) == 1:
            return named[0]
    return None


def is_option_text(answer: str, option: str) -> bool:
    """Whether an answer reads as an option, or is the same number with the same unit."""
    return _is_same_text(normalize(answer), option) or _is_same_value(normalize(answer), option)


def _is_other_value(answer: str, option: str) -> bool:
    """Whether an answer is a number, and not the one that an option is."""
    quantities = parse_quantity(answer.strip("() ")), parse_quantity(normalize(option))
    if quantities[0] is None or quantities[1] is None:
        return False
    bare = number_value(re.split(r"\s", answer.strip("() "))[0])  # "125.6 million" where millions are asked for
    return not any(
        value is not None and values_equal(value, quantities[1].value) for value in (quantities[0].value, bare)
    )


def _is_number_of(answer: str, option: str) -> bool:
    """Whether one of a normalised answer and an option is the bare number of the other, as 140 of 140°."""
    quantities = parse_quantity(answer), parse_quantity(normalize(option))
    if quantities[0] is None or quantities[1] is None or (quantities[0].unit and quantities[1].unit):
        return False
    return values_equal(quantities[0].value, quantities[1].value)


def _is_same_text(answer: str, option: str) -> bool:
    """Whether a normalised answer reads as an option."""
    option = normalize(option)
    option_key = text_key(option)
    return bool(option_key) and text_key(answer) == option_key


def _is_same_value(answer: str, option: str) -> bool:
    """Whether a normalised answer is the same number with the same unit as an option; chains and ranges are none."""
    option = normalize(option)
    if sequence_terms(option) is not None:
        return False
    quantities = parse_quantity(answer), parse_quantity(option)
    if quantities[0] is None or quantities[1] is None or quantities[0].unit != quantities[1].unit:
        return False
    return values_equal(quantities[0].value, quantities[1].value)
