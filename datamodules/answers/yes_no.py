"""Yes or no, as a sentence says it: by its first word, or by saying what was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from datamodules.answers.normalize import normalize, text_key
from datamodules.answers.sentences import is_condition, is_undecided, split_sentences, without_lead

_AFFIRMATIVE = ("yes", "true")
_NEGATIVE = ("no", "false")
_HEAD = re.compile(
    r"[\s\W]*(?:(?:so|therefore|thus|hence)\b,?\s+)?(?:(?:the|my|our)\s+answer\s+(?:to\s+(?:the|this)\s+question\s+)?is\s*:?\s*)?"
    r"(?:definitely|clearly|simply|probably|most likely)?[\s\"“*(]*(?P<word>yes|no|true"
    r"|false)\b(?=[\s\"”*)]*(?:[,.;:!—–-]|\n|$))",
    re.IGNORECASE,
)
_AUXILIARY = re.compile(
    r"(?P<word>is|are|was|were|does|do|did|can|could|will|would|has|have)\s+(?P<rest>\S.*)", re.IGNORECASE
)
_NOT = re.compile(r"\bnot\b|n['’]t\b", re.IGNORECASE)
_REASON = re.compile(r",\s+(?:as|because|since|which|where|with)\b.*$", re.IGNORECASE | re.DOTALL)
_LITTLE = frozenset(
    "color colour actually indeed also the a an is are was were be been do does did has have had "
    "can could will would there that this it of".split()
)


def yes_no_letters(options: Mapping[str, str]) -> tuple[str, str] | None:
    """The letters of the affirmative and the negative option; None unless the options are these two."""
    if len(options) != 2:
        return None
    found = {text_key(normalize(text)): letter for letter, text in options.items()}
    for pair in zip(_AFFIRMATIVE, _NEGATIVE, strict=True):
        if set(found) == set(pair):
            return found[pair[0]], found[pair[1]]
    return None


def read_yes_no(text: str, question: str) -> bool | None:
    """What a text says to a question that is to be answered by yes or no.

    The last sentence that begins with the word counts ("No, there are fewer."). Without one, the first or the last
    sentence must say exactly what was asked, word by word, or deny it ("Crimson is not less than Gray.").

    Args:
        text: The response, or the line behind "the answer is".
        question: With or without options; its last question mark ends what is asked.

    Returns:
        None where neither can be told.
    """
    sentences = split_sentences(text)
    for sentence in reversed(sentences):
        head = _HEAD.match(without_lead(sentence))
        if head and not is_condition(sentence):
            return head["word"].lower() in _AFFIRMATIVE
    if any(is_undecided(sentence) for sentence in sentences):
        return None
    asked = asked_statement(question)
    if asked is None:
        return None
    said = {
        verdict for sentence in {*sentences[:1], *sentences[-1:]} if (verdict := _compare(sentence, asked)) is not None
    }
    return said.pop() if len(said) == 1 else None


def asked_statement(question: str) -> list[str] | None:
    """The words of what a question asks whether it is so; None where it is no such question."""
    before = question.rpartition("?")[0]
    sentence = re.split(r"[.?!]\s+|\n|Question:\s*", before.strip())[-1] if before else ""
    match = _AUXILIARY.fullmatch(sentence.strip())
    words = _words(match["rest"]) if match and not _NOT.search(sentence) else []
    return words if len(words) >= 2 else None


def _compare(sentence: str, asked: list[str]) -> bool | None:
    statement = _REASON.sub("", without_lead(sentence))
    negations = len(_NOT.findall(statement))
    words = _words(_NOT.sub(" ", statement))
    if (
        negations > 1 or is_condition(sentence) or words != asked
    ):  # the order counts: "more A than B" is not "more B than A"
        return None
    return negations == 0


def _words(text: str) -> list[str]:
    words = re.findall(r"[\w.%]+(?:['’]\w+)?", text.lower().replace("'s ", " "))
    stems = [word.strip(".") for word in words if word.strip(".") not in _LITTLE]
    return [stem.removesuffix("s") if len(stem) > 3 else stem for stem in stems if stem]
