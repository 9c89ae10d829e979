"""The rules by which the authors of MMMU judge a response, with an option drawn where none can be read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from datamodules.benchmarks.question import OPTION_LETTERS, BenchmarkQuestion, Grade

SEED = 42
"""Of the drawn options, as in the authors' script; there the draws also depend on the order of the questions."""

_SIGNS = ",.!?;:'"
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def grade_choice_officially(question: BenchmarkQuestion, response: str) -> Grade:
    """Judge a multiple-choice response.

    A drawn option makes the verdict but is no answer: it has no vote and counts as not parsed.
    """
    letter = read_letter(response, question.options or dict.fromkeys(OPTION_LETTERS, ""))
    if letter is None:
        drawn = draw_option(question, response)
        return Grade(drawn in question.gold, None, "none")
    return Grade(letter in question.gold, letter, "response")


def read_letter(response: str, options: Mapping[str, str]) -> str | None:
    """The option of a response: ``(B)``, else a ``B`` between spaces, else the text of an option; the last of several.

    Args:
        response: Or what stood in its box.
        options: Letter to text.

    Returns:
        The letter; None where none can be read.
    """
    text = response
    for sign in _SIGNS:
        text = text.strip(sign)
    text = f" {text} "
    for form in ("({})", " {} "):
        places = {letter: text.rfind(form.format(letter)) for letter in options}
        if max(places.values()) >= 0:
            return max(places, key=lambda letter: places[letter])
    if len(text.split()) > 5:
        lowered = text.lower()
        places = {letter: lowered.rfind(option.lower()) for letter, option in options.items() if option}
        if max(places.values(), default=-1) >= 0:
            return max(places, key=lambda letter: places[letter])
    return None


def draw_option(question: BenchmarkQuestion, response: str) -> str:
    """An option drawn by seed, question and response, so that neither order nor number of processes matters."""
    digest = hashlib.sha256(f"{SEED}/{question.question_id}/{response}".encode()).digest()
    letters = list(question.options or OPTION_LETTERS)
    return letters[int.from_bytes(digest[:8], "big") % len(letters)]


def grade_open_officially(question: BenchmarkQuestion, response: str) -> Grade:
    """Judge an open response: right if a gold text is part of a key phrase, or a gold number is one of its numbers."""
    phrases = key_phrases(response)
    found: list[str | float] = []
    for item in [*phrases, *(number for phrase in phrases for number in numbers_in(phrase))]:
        found += normalized(item)
    golds = [value for gold in question.gold for value in normalized(gold)]
    is_correct = any(
        gold in item if isinstance(gold, str) and isinstance(item, str) else gold == item
        for item in found
        for gold in golds
    )
    answer = phrases[-1].strip() if phrases else ""
    return Grade(is_correct, answer or None, "response" if answer else "none")


def key_phrases(response: str) -> list[str]:
    """What follows words like "so" and "answer", the shortest such tail of each line, in lower case.

    In the last line an equals sign counts like such a word. Without any tail the response itself is the phrase. The
    authors' script splits sentences at a capital letter after it has made the text lower-case, so lines are what it
    splits.
    """
    lines = response.strip().strip(".").lower().split("\n")
    phrases = []
    for number, line in enumerate(lines):
        indicators = (*_INDICATORS, "=") if number == len(lines) - 1 else _INDICATORS
        tails = [line.split(word)[-1].strip() for word in indicators if word in line]
        shortest = min(tails, key=len, default="")
        if shortest and shortest not in _SIGNS:
            phrases.append(shortest)
    return phrases or ["\n".join(lines)]


def numbers_in(text: str) -> list[str]:
    """All numbers in a text, as written: with thousands separators, with an exponent, and plain ones."""
    return [number for pattern in _NUMBERS for number in pattern.findall(text)]


def normalized(text: str) -> list[str | float]:
    """A number to two decimals, or the text in lower case; a single letter must stand beside a space to be found."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]
