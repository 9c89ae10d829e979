"""Yes or no, as a sentence says it: by its first word, or by saying what was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from datamodules.answers.comparisons import COMPARATIVES, agrees, comparison
from datamodules.answers.normalize import normalize, text_key
from datamodules.answers.sentences import concludes, is_condition, is_undecided, split_sentences, without_lead

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
_TO_OTHERS = re.compile(r"\s+compared\s+(?:to|with)\s+(?:all\s+|the\s+)*others?\b.*$", re.IGNORECASE | re.DOTALL)
_SOURCE = re.compile(
    r",?\s+(?:according to|based on|in|from)\s+(?:this|the)\s+"
    r"(?:image|figure|graph|chart|picture|table|diagram|photo|plot|map)\b",
    re.IGNORECASE,
)
_FORMULA_KIND = re.compile(r"\b(?:integral|function|series|limit|sum|expression)\s+(?=[\\$])", re.IGNORECASE)
_PLACE = re.compile(
    r"\s+in\s+(?:the|this)\s+(?!left|right|middle|cent|front|back|fore|top|bottom|first|second|last|other)[a-z]+"
    r"(?=\s+(?:is|are|was|were|has|have|does|do)\b)",
    re.IGNORECASE,
)
_PLACE_AT_END = re.compile(r"\s+(?:in|on|at)\s+(?:the|this)\s+[a-z]+\W*$", re.IGNORECASE)
_AMONG = re.compile(r"(?P<frame>among\s[^,]+?)\s*,\s*(?P<rest>.+)", re.IGNORECASE | re.DOTALL)
_RELATIVE = re.compile(rf"\s+that\s+(?:is|are)\s.*?(?=\s+(?:{'|'.join(sorted(COMPARATIVES))})\s+than\b)", re.IGNORECASE)
_THIS = re.compile(r"(?:this|that|it)\s+an?\s+\w+\s+\w+", re.IGNORECASE)
_LITTLE = frozenset(
    "color colour actually indeed also the a an is are was were be been do does did has have had "
    "can could will would there that this these those it of".split()
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
    sentence must say exactly what was asked, word by word, or deny it ("Crimson is not less than Gray."), or compare
    what was compared, see :func:`datamodules.answers.comparisons.agrees`. It may say where ("the lamp in the hall is
    on"), and a conclusion may leave out a relative clause of the question.

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
    asked, shortened = asked_statements(question), asked_statements(_RELATIVE.sub("", question))
    said = {
        verdict
        for sentence in {*sentences[:1], *sentences[-1:]}
        for words in (asked + shortened if concludes(sentence) else asked)
        if (verdict := _compare(sentence, words)) is not None
    }
    return said.pop() if len(said) == 1 else None


def asked_statements(question: str) -> list[list[str]]:
    """The words of what a question asks whether it is so, in each way to say it; empty where it is no such question.

    "Among the tools, is the saw new" is "the saw is new among the tools" and "the saw is new"; "is this a flat roof" is
    "this is a flat roof" and "the roof is a flat roof".
    """
    before = question.rpartition("?")[0]
    sentence = re.split(r"[.?!]\s+|\n|Question:\s*", before.strip())[-1].strip() if before else ""
    frame = _AMONG.fullmatch(sentence)
    match = _AUXILIARY.fullmatch(frame["rest"] if frame else sentence)
    if match is None or _NOT.search(sentence):
        return []
    words = _words(_without_frame(match["rest"]))
    found = [words]
    if frame:
        found.append(words + _words(frame["frame"]))
    if _THIS.match(match["rest"]):
        found.append([words[-1], *words])
    return [words for words in found if len(words) >= 2]


def _compare(sentence: str, asked: list[str]) -> bool | None:
    statement = _REASON.sub("", _without_frame(without_lead(sentence)))
    negations = len(_NOT.findall(statement))
    if negations > 1 or is_condition(sentence):
        return None
    statement = _NOT.sub(" ", statement)
    frame = _AMONG.fullmatch(statement)
    statement = f"{frame['rest'].rstrip(' .')} {frame['frame']}" if frame else statement
    if negations == 0 and _words(_PLACE_AT_END.sub("", statement)) == asked:
        return True
    for text in (statement, _PLACE.sub("", statement), _TO_OTHERS.sub("", statement)):
        words = _words(text)
        if words == asked:  # the order counts: "more A than B" is not "more B than A"
            return negations == 0
        compared, wanted = comparison(words), comparison(asked)
        is_so = agrees(compared, wanted) if compared and wanted else None
        if is_so is not None:
            # "not fewer" leaves "as many" open
            return None if negations and not is_so else is_so and not negations
    return None


def _without_frame(text: str) -> str:
    """A text without "in the image" and the like, and without the word for a formula that follows."""
    return _FORMULA_KIND.sub("", _SOURCE.sub("", text))


def _words(text: str) -> list[str]:
    words = re.findall(r"[\w.%]+(?:['’]\w+)?", text.lower().replace("'s ", " "))
    return [_stem(word.strip(".")) for word in words if word.strip(".") and word.strip(".") not in _LITTLE]


def _stem(word: str) -> str:
    """What a noun's singular and its plural have in common: "bus" of bus, buss, buses and busses."""
    if word in COMPARATIVES:
        return word
    if word.endswith("sses"):
        word = word.removesuffix("ses")
    return word.removesuffix("s").removesuffix("e") if len(word) > 3 else word
