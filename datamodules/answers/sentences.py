"""Sentences of a response, and what kind of sentence each is."""

from __future__ import annotations

import re

MAX_LENGTH = 20000
"""Of a longer response only the end is split."""

_SENTENCE_END = re.compile(
    r"(?<=\S)(?:[.!?][*_\"”’)\]]{0,3}\s+(?=[A-Z*$\\(\[“\"]|So\b)|[。！？]\s*|(?<=\.)\$\s+(?=[A-Z]))|\s*\n\s*\n\s*|\s*\r?\n\s*"
)
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|approx|Fig|No|Mr|Mrs|Dr|St|ca)|^\W*\(?(?:[A-I]|\d{1,2}))$")
_LEAD = re.compile(
    r"(?:\d{1,2}[.)]\s+(?=(?:so|thus|hence|therefore|finally)\b))?"
    r"(?:(?:so|thus|hence|therefore|then|and|finally|in (?:conclusion|summary|total)|overall|as a result|consequently"
    r"|we (?:find|get|have|see|conclude|know)(?: that)?|it follows that|this means(?: that)?"
    r"|(?:based|depending) on [^,]{1,80}"
    r"|(?:the|this) (?:\w+ ){0,3}(?:image|figure|graph|chart|picture|table|diagram|photo|plot|spectrum)"
    r" (?:shows|indicates|suggests) that"
    r"|from (?:the|this) [^,]{1,60}|according to [^,]{1,60}|in the (?:image|figure|graph|chart"
    r"|picture|table|diagram|photo))"
    r"(?:\s*[,:]\s*|\s+))+",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\W*(?:\d{1,2}[.)]\s+)?(?:so|thus|hence|therefore"
    r"|in (?:conclusion|summary)|consequently|finally|所以|因此|故|综上)(?![a-z])",
    re.IGNORECASE,
)
_UNDECIDED = re.compile(
    r"\b(?:(?:not|n't|no|without|insufficient|lacks?)\s+(?:\w+\s+){0,4}(?:information|context|data"
    r"|details)|(?:can(?:not|'t| not)"
    r"|could not|couldn't|unable to|(?:im|not )possible to|difficult to|hard to|not (?:clear"
    r"|possible|provided|specified|enough))"
    r"(?:\s+(?:\w+\s+)?(?:be\s+)?(?:determined?|answer(?:ed)?|say|sa?id|tell|told|provided?|find|found|conclude|choose|decide"
    r"|calculated?|identif(?:y|ied)|predict)|\b)|sorry\b|not sure\b|choose between|(?:does|do|did|is"
    r"|are) not (?:provided?|specif"
    r"(?:y|ied)|given|mention(?:ed)?)|(?<!\balso )depends? on)",
    re.IGNORECASE,
)
_EXTENT = re.compile(
    r"\b(?:difficult|hard|(?:im|not )possible) to \w+ (?:the )?(?:exact|precise|full) "
    r"(?:outcomes?|effects?|impacts?|consequences?|extent)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_NEGATED = re.compile(
    r"\b(?:not|no|never|neither|nor|none|without|except|unlike|instead|rather|cannot|incorrect|wrong"
    r"|false|other than)\b|n['’]t\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"\W*(?!if (?:we|you|one|i) (?:add|sum|count|subtract|multiply|divide|combine)\b)"  # what is done, no hypothesis
    r"(?:if|when|suppose|assuming|unless|whether|for example)\b",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of a text, in order, none of them blank; formulas with full stops stay whole."""
    text = text[-MAX_LENGTH:]
    sentences = []
    begin = 0
    for match in _SENTENCE_END.finditer(text):
        piece = text[begin : match.start()]
        if "\n" not in match.group() and _ABBREVIATION.search(piece.rstrip(".")):
            continue
        sentences.append(text[begin : match.end()])
        begin = match.end()
    sentences.append(text[begin:])
    return [sentence.strip() for sentence in sentences if sentence.strip()]


def without_lead(sentence: str) -> str:
    """A sentence without "so", "we find that", "based on the image" and the like in front; never empty."""
    return sentence[match.end() :] if (match := _LEAD.match(sentence)) and match.end() < len(sentence) else sentence


def concludes(sentence: str) -> bool:
    """Whether a sentence begins with "so", "therefore" or the like."""
    return _CONCLUDES.match(sentence) is not None


def is_undecided(sentence: str) -> bool:
    """Whether a sentence says that there is no answer: "there is not enough information".

    What "also depends on" more, and an effect whose exact extent is unknown, leave an answer standing.
    """
    return _UNDECIDED.search(_EXTENT.sub(" ", sentence)) is not None


def is_negated(sentence: str) -> bool:
    """Whether a sentence denies something."""
    return _NEGATED.search(sentence) is not None


def is_condition(sentence: str) -> bool:
    """Whether a sentence says what would be: "if ..., the answer is B"."""
    return _CONDITION.match(sentence) is not None
