"""How VLMEvalKit reads an option from a response by rules, before it asks a judge model.

Where its judge model would be asked, our final-answer cut is read by the same rules. An option is never drawn here;
VLMEvalKit draws one after three failures of the judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from datamodules.answers.extract import extract_final_answer
from datamodules.benchmarks.question import BenchmarkQuestion, Grade

NO_OPTION = "Z"
"""What a refusal is read as; it is never right."""

_FAILURE = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_SIGNS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_TOKENS = 4
_SENTENCE = re.compile(r"answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)


def infer_option(answer: str, options: Mapping[str, str]) -> str | None:
    """The option that an answer names.

    In turn: the only option letter among the words, if its first place is one of the last four; a letter A to D behind
    "answer is", in small letters too, so that "the answer is a dog" names A; the only option whose text is a part of
    the answer, unless the answer is more than twice as long as all options together.

    Args:
        answer: A response or a cut of it.
        options: Letter to text.

    Returns:
        The letter; :data:`NO_OPTION` for a refusal; None where nothing can be read.
    """
    return _by_letter(answer, options) or _by_text(answer, options)


def grade_choice(question: BenchmarkQuestion, response: str, options: Mapping[str, str] | None = None) -> Grade:
    """Judge a multiple-choice response: the option named in it, else the one named in its final-answer cut.

    Args:
        question: Its gold letters count.
        response: What the policy wrote.
        options: Letter to text, where they are others than the question's.
    """
    options = question.options if options is None else options
    letter = infer_option(response, options) or infer_option(extract_final_answer(response).text, options)
    if letter is None or letter == NO_OPTION:
        return Grade(False, None, "none")
    return Grade(letter in question.gold, letter, "response")


def _by_letter(answer: str, options: Mapping[str, str]) -> str | None:
    if _FAILURE in answer:
        return None
    if any(refusal in answer for refusal in _REFUSALS):
        return NO_OPTION
    tokens = answer.translate(_SIGNS).split()
    named = [letter for letter in options if letter in tokens]
    if len(named) == 1 and tokens.index(named[0]) >= len(tokens) - _LAST_TOKENS:
        return named[0]
    if not named and NO_OPTION in tokens:
        return NO_OPTION
    sentence = _SENTENCE.search(answer)
    return sentence[1].upper() if sentence and sentence[1].upper() in options else None


def _by_text(answer: str, options: Mapping[str, str]) -> str | None:
    if len(answer.lower()) > 2 * sum(map(len, options.values())):
        return None
    found = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return found[0] if len(found) == 1 else None
