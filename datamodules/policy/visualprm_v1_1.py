"""The answer check of the released VisualPRM400K-v1.1 annotation: looser than ours, and by source.

A source is known by a word in its name; the checks of a source are alternatives, one is enough.

==================================== =================================================================
word in the source's name            checks beside equal text
==================================== =================================================================
``chartqa``                          numbers within 5 % (a year 20xx must be equal)
``docvqa``, ``infographics``         edit distance over length above 0.9: see below
``SROIE``, ``CLEVR_math``, ``geos``, numbers within 5 %, equal words, option letter, math-verify
``geometry``
others                               numbers within 0.1 %, equal words, option letter, math-verify
==================================== =================================================================

The check of ``docvqa`` and ``infographics`` is meant as the normalised similarity of texts, but compares the
*distance*: ``zzzzzzzz`` is right for ``Smith``, and a near miss is wrong. It is kept here, since it made the released
scores; :func:`has_inverted_check` tells such sources apart.

Where a response has no box, math-verify searches it, as in the release; where it is longer than 200 characters, our
final-answer cut of it. Nothing is evaluated as code, and math-verify runs under limits of time and memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from datamodules.answers.extract import extract_final_answer
from datamodules.answers.symbolic import symbolically_equal
from datamodules.benchmarks import Grade

SHORTEST_RESPONSE = 21
"""Characters; a shorter response is wrong, whatever it says."""
MAX_SYMBOLIC_LENGTH = 200
WITHIN_5_PERCENT, WITHIN_0_1_PERCENT, WORDS, OPTION, MATH_VERIFY, DISTANCE = (
    "within 5 %",
    "within 0.1 %",
    "equal words",
    "option letter",
    "math-verify",
    "edit distance",
)

_BY_WORD = (
    (("chartqa",), (WITHIN_5_PERCENT,)),
    (("docvqa", "infographics"), (DISTANCE,)),
    (("SROIE", "CLEVR_math", "geos", "geometry"), (WITHIN_5_PERCENT, WORDS, OPTION, MATH_VERIFY)),
)
_OTHERS = (WITHIN_0_1_PERCENT, WORDS, OPTION, MATH_VERIFY)
_LEAST_SIMILARITY = 0.9
_UNITS = ("degrees", "degree", r"\angle", "°", "%", "cm")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
    word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_ARTICLES = ("a", "an", "the")
_NEGATED = "ai are ca could did does do had has have is might must need sha should was were wo would".split()
_CONTRACTED = {f"{word}nt": f"{word}n't" for word in _NEGATED} | {
    f"{word}{end}": f"{word}'{end}"
    for end, words in {
        "ve": "could might must not should they we what who would you",
        "re": "there they what you",
        "ll": "how it somebody someone something they what who why you",
        "s": "how let somebody someone what when where who why",
        "d": "he how they where who you",
    }.items()
    for word in words.split()
}


def checks_of(source: str) -> tuple[str, ...]:
    """The checks of a source; the first row of the table above whose word is in its name counts."""
    return next((checks for words, checks in _BY_WORD if any(word in source for word in words)), _OTHERS)


def has_inverted_check(source: str) -> bool:
    """Whether the check of a source takes unlike texts for right ones, so that its scores may be noise."""
    return DISTANCE in checks_of(source)


def grade_as_released(gold: str, source: str) -> Callable[[str], Grade]:
    """Grade responses to a prompt as the released annotation did.

    Args:
        gold: The right answer.
        source: Name of the prompt's source.
    """
    checks = checks_of(source)

    def grade(response: str) -> Grade:
        if len(response) < SHORTEST_RESPONSE:
            return Grade(False, None, "none")
        boxed = _last_box(response)
        answer = response if boxed is None else boxed
        return Grade(_is_right(answer, gold, checks), answer or None, "response" if boxed is None else "boxed")

    return grade


def _is_right(answer: str, gold: str, checks: tuple[str, ...]) -> bool:
    if answer.lower() == gold.lower():
        return True
    return any(_CHECKS[name](answer, gold) for name in checks)


def _last_box(response: str) -> str | None:
    r"""What stands in the last ``\boxed{...}``; None without one, or where its braces do not close."""
    begin = response.rfind(r"\boxed{")
    if begin < 0:
        return None
    begin += len(r"\boxed{")
    depth = 1
    for place in range(begin, len(response)):
        depth += {"{": 1, "}": -1}.get(response[place], 0)
        if not depth:
            return response[begin:place]
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _within(answer: float | None, gold: float | None, share: float) -> bool:
    """Whether a number differs by at most a share of the gold one, which is not 0."""
    return answer is not None and bool(gold) and gold is not None and abs(answer - gold) / abs(gold) <= share


def _within_5_percent(answer: str, gold: str) -> bool:
    if len(gold) == 4 and gold.startswith("20"):
        return False
    return _within(_number(answer.removesuffix("%")), _number(gold.removesuffix("%")), 0.05)


def _within_0_1_percent(answer: str, gold: str) -> bool:
    return _within(_number(_without_units(answer)), _number(_without_units(gold)), 1e-3)


def _without_units(text: str) -> str:
    for unit in _UNITS:
        text = text.replace(unit, "")
    return text


def _same_words(answer: str, gold: str) -> bool:
    words = _words(answer), _words(gold)
    return bool(words[0]) and words[0] == words[1]


def _words(text: str) -> str:
    """What answers of visual questions are compared as: no case, articles or punctuation, small numbers as digits."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = " ".join(text.replace("\n", " ").replace("\t", " ").split(" ")).strip()
    spaced = text
    for sign in _PUNCTUATION:
        stands_apart = f"{sign} " in text or f" {sign}" in text
        spaced = spaced.replace(sign, "" if stands_apart else " ")
    spaced = re.sub(r"\.(?!\d)", "", spaced)
    numbers = _NUMBERS | {"none": "0"}
    words = [numbers.get(word, word) for word in spaced.split()]
    return " ".join(_CONTRACTED.get(word, word) for word in words if word not in _ARTICLES)


def _same_option(answer: str, gold: str) -> bool:
    answer, gold = answer.strip(), gold.strip()
    if answer[1:2] == ".":
        answer = answer[0]
    if len(answer) >= 3 and answer[0] == "(" and answer[2] == ")":
        answer = answer[1]
    return answer.lower() == gold.lower()


def _far_apart(answer: str, gold: str) -> bool:
    """The check of documents, as released: the edit distance, not the similarity, must exceed 0.9 of the length."""
    # Imported where it is needed: it takes seconds, which every program that reads prompts would pay.
    from torchmetrics.functional.text import edit_distance

    texts = [" ".join(text.strip().lower().split()) for text in (answer, gold)]
    longest = max(len(answer), len(gold))
    return longest > 0 and float(edit_distance(texts[:1], texts[1:], reduction="sum")) / longest > _LEAST_SIMILARITY


def _same_mathematics(answer: str, gold: str) -> bool:
    if len(answer) > MAX_SYMBOLIC_LENGTH:
        answer = extract_final_answer(answer).text
    is_short = 0 < len(answer) <= MAX_SYMBOLIC_LENGTH and 0 < len(gold) <= MAX_SYMBOLIC_LENGTH
    formulas = answer.replace("$", ""), gold.replace("$", "")
    return is_short and (symbolically_equal(*formulas) or symbolically_equal(*formulas, search=True))


_CHECKS: dict[str, Callable[[str, str], bool]] = {
    WITHIN_5_PERCENT: _within_5_percent,
    WITHIN_0_1_PERCENT: _within_0_1_percent,
    WORDS: _same_words,
    OPTION: _same_option,
    MATH_VERIFY: _same_mathematics,
    DISTANCE: _far_apart,
}
