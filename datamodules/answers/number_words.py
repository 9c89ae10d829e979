"""Numbers in English words: "twenty-one", "two thousand", "third", "three quarters"."""

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
_VALUES = {word: number for number, word in enumerate(_SMALL)} | {
    word: 20 + 10 * number for number, word in enumerate(_TENS)
}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fifth": 5, "fifths": 5}
_ORDINAL_DIGITS = re.compile(r"(\d+)(?:st|nd|rd|th)")

SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
"""Words that multiply the number before them."""

WORD = "|".join(sorted({*_VALUES, *SCALES}, key=len, reverse=True))
"""Pattern of one word of a whole number, for patterns that look for numbers in sentences."""

NUMBER_WORDS = rf"(?:{WORD})(?:[\s-]+(?:and\s+)?(?:{WORD}))*"
"""Pattern of a whole number in words."""


def number_in_words(text: str) -> Fraction | None:
    """The value of a number in words, a whole one, an ordinal ("first", "3rd") or a share ("one half").

    Args:
        text: Normalised, in any case, and nothing else but the number.

    Returns:
        None for anything else.
    """
    text = text.lower()
    digits = _ORDINAL_DIGITS.fullmatch(text)
    if digits:
        return Fraction(int(digits[1]))
    if text in _ORDINALS:
        return Fraction(1 + _ORDINALS.index(text))
    words = text.replace("-", " ").split()
    if not words or len(words) > 12:
        return None
    if words[-1] in _PARTS:
        share = _whole(words[:-1]) if words[:-1] not in ([], ["a"]) else 1
        is_written_so = words[:-1] != [] or words[-1] == "half"  # a lone "third" is the one after the second
        return Fraction(share, _PARTS[words[-1]]) if share and is_written_so else None
    value = _whole(words)
    return None if value is None else Fraction(value)


def _whole(words: list[str]) -> int | None:
    total = part = 0
    last = None  # the smallest value that was added to the part in hand; a later one must be smaller
    for place, word in enumerate(words):
        if word == "a" and place == 0 and len(words) > 1:
            part, last = 1, 1
        elif word == "and" and 0 < place < len(words) - 1 and words[place - 1] in SCALES:
            continue
        elif word in _VALUES:
            value = _VALUES[word]
            if last is not None and not (last >= 20 and value < 10 and value > 0 and last % 10 == 0):
                return None
            part, last = part + value, value
        elif word == "hundred" and 0 < part < 20:
            part, last = part * 100, 100
        elif word in SCALES and word != "hundred" and part:
            total, part, last = total + part * SCALES[word], 0, None
        else:
            return None
        if word == "hundred":
            last = None
    return total + part
