"""Cut the final answer out of a response."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from datamodules.answers.last_line import is_prose, is_value, value_in_sentence, values_in_line
from datamodules.answers.normalize import remove_emphasis, strip_edges, unwrap_text_commands
from datamodules.answers.response import counted_part
from datamodules.answers.sentences import is_condition, is_undecided

Status = Literal["boxed", "tag", "marker", "last_line", "none"]

MAX_SHORT_LENGTH = 60
MAX_SHORT_WORDS = 6
MAX_CUT_LENGTH = 2000

_BOX_OR_BRACE = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\boxed\s+(?P<bare>[^\s{$]+)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL
)
_BETWEEN_BOXES = re.compile(
    r"(?:\s*|\s*(?:[a-z]+|for part \(?\w\)?)?\s*(?:,|;|,?\s*\b(?:and|or)\b)\s*)(?:[a-z](?:_\{?\d\}?)?\s*=\s*)?"
)
_IGNORED_BETWEEN_BOXES = re.compile(r"\\(?:quad|qquad|[,;:! ()\[\]])|\$|\\text\s*\{|[{}]|\\(?:boxed|fbox)\s*\{?$")
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.IGNORECASE | re.DOTALL)
_VERB = r"(?:is|was|are|equals|(?:should|must|would|will|has to) be)\b"
_SUBJECT = (
    r"(?<!\bwrong )(?<!\bincorrect )\b(?:(?:final|correct|right)\s+)*answers?\b(?:\s+choice)?"
    r"(?:\s+(?:to|of|for)\s+(?:the|this|our)\s+(?:[a-z]+\s+)?(?:question|problem))?"
    r"|\b(?:correct|right|best)\s+(?:option|choice)(?:\s+letter)?|\bans\b\.?|(?:正确)?(?:答案|选项)"
)
_MARKER = re.compile(
    rf"(?:{_SUBJECT})[*_]*\s*(?:therefore\s+|thus\s+|then\s+)?(?:{_VERB}|[:=：→]|[为是选])"
    r"(?!\s*(?:not|n't|wrong|incorrect|correct|right)\b)(?:[\s*:=_：`]|\$|\\[\[(])*"
    r"(?=(?P<tail>\S[^\n]{0,2000}))",  # not consumed: the same line may hold another one
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[^\w\n]*(?:(?:final\s+)?answer\W*\n+\s*|(?:final\s+)?answer\s*(?=[-\d\\$(]))(?P<tail>\S[^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"(?<=\S)\.\s+(?=[A-Z])")
_REASON = re.compile(r",?\s+(?:because|since|as\s+(?:it|the|they|this|we)|which)\b.*", re.IGNORECASE | re.DOTALL)
_LEAD = re.compile(
    rf"^(?:(?:so|thus|hence|therefore)\b,?\s+)?(?:the\s+)?(?:{_SUBJECT})\s*(?:{_VERB}|[:=：])\s*", re.IGNORECASE
)
_WIDE_SPACE = re.compile(r"(?<!\\)\\ ")
_ASIDE = re.compile(
    r"\s*\((?:or|i\.e\.|that is|since|because|as|about|approximately|approx\.?|≈|\\approx)(?![A-Za-z])[^()]*\)$"
)
_REMARK = re.compile(
    r"(?:in|on|at|of|as|to|for|from|by|with|that|this|it|the\s+same|given|shown|found|equal|expressed|rounded|boxed|above|below"
    r"|reasonable|consistent|valid|verified|confirmed|indeed|only|also|already|unique|therefore|thus|so)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ExtractedAnswer:
    """The final answer of a response.

    Attributes:
        text: The cut, without LaTeX text commands, dollar signs, emphasis, quotes and a final full stop.
        status: Where it was found: in the last box ("boxed"), an ``<answer>`` tag ("tag"), behind "the answer is"
            ("marker"), in the last line ("last_line"), or nowhere ("none"; then `text` is empty).
        line: What `text` was cut from: the whole box, the whole line behind the marker, the whole last line.
        body: The part of the response that counts, as written.
    """

    text: str
    status: Status
    line: str = field(default="", compare=False)
    body: str = field(default="", compare=False, repr=False)

    @property
    def short_text(self) -> str | None:
        """The cut, if it can be a free-form answer: a last line that is a whole sentence is none."""
        if not self.text:
            return None
        is_long = len(self.text) > MAX_SHORT_LENGTH or len(self.text.split()) > MAX_SHORT_WORDS
        return None if self.status == "last_line" and is_long and is_prose(self.text) else self.text

    @property
    def formula(self) -> str | None:
        """The line that the cut stands in, if it is a formula and nothing else: of ``y = 2x`` the cut is ``2x``."""
        return self.line if self.line and len(self.line) <= MAX_CUT_LENGTH // 4 and not is_prose(self.line) else None


def extract_final_answer(response: str) -> ExtractedAnswer:
    r"""Cut the final answer out of a response.

    What follows ``</think>`` counts, if anything does. Tried in turn: the last ``\boxed{...}`` with balanced braces or
    ``<answer>...</answer>``, whichever stands later; what follows the last "(final) answer is" / "answer:" / "correct
    option is"; the last line that is not blank (of which only the tail behind its last "=" or "is", if it is short). A
    box gives way only to what the last line, below the box, calls the answer in a few words.
    """
    response = counted_part(response)
    for cut, line, status in _candidates(response):
        text = clean(cut[-MAX_CUT_LENGTH:])
        text = _ASIDE.sub("", _LEAD.sub("", text)) or text
        if text:
            return ExtractedAnswer(text, status, clean(line[-MAX_CUT_LENGTH:]), response)
    return ExtractedAnswer("", "none", "", response)


def _candidates(response: str) -> list[tuple[str, str, Status]]:
    """(cut, what it was cut from, where), the best one first."""
    placed: list[tuple[int, str, Status]] = [(end, cut, "boxed") for end, cut in _boxed_contents(response)]
    placed += [(match.end(), match[1], "tag") for match in _TAG.finditer(response) if "\\boxed" not in match[1]]
    found: list[tuple[str, str, Status]] = [
        (cut, cut, status) for _, cut, status in sorted(placed, reverse=True) if clean(cut)
    ]
    marked = [match for pattern in (_MARKER, _HEADING) for match in pattern.finditer(response)]
    marked = [match for match in marked if not is_condition(_sentence_before(response, match.start()))]
    lines = (clean(line.lstrip("#>")[-MAX_CUT_LENGTH:]) for line in reversed(response.splitlines()))
    last_line = next((line for line in lines if line), "")
    if marked:
        last_mark = max(marked, key=lambda match: match.start("tail"))
        tail = _REASON.sub("", _SENTENCE_END.split(last_mark["tail"])[0]) or last_mark["tail"]
        is_below = bool(placed) and last_mark.start() >= max(placed)[0] and not clean(response[last_mark.end("tail") :])
        if _is_sentence_with_value(tail):
            tail = value_in_sentence(clean(tail))
        marker: tuple[str, str, Status] = (tail, last_mark["tail"], "marker")
        if is_below and _is_statement(tail):
            found.insert(0, marker)
        found.append(marker)
    found += [(cut, last_line, "last_line") for cut in (*values_in_line(last_line), last_line) if cut]
    return found


def _is_sentence_with_value(tail: str) -> bool:
    """Whether a tail is a sentence that ends with a number: "the largest number of them is 19"."""
    text = clean(tail)
    return is_prose(text) and not is_undecided(text) and not is_value(text) and is_value(value_in_sentence(text))


def _sentence_before(response: str, place: int) -> str:
    """What stands in the same sentence before a place."""
    return re.split(r"[.!?。]\s|\n", response[max(0, place - 300) : place])[-1]


def _is_statement(tail: str) -> bool:
    """Whether a tail is short and no remark about an answer given before, as in "the answer is in square metres"."""
    text = clean(tail)
    is_short = len(text) <= MAX_SHORT_LENGTH and len(text.split()) <= MAX_SHORT_WORDS
    return bool(text) and is_short and _REMARK.match(text) is None


def _boxed_contents(response: str) -> list[tuple[int, str]]:
    r"""End and content of each box with balanced braces, in order; boxes with just "and" between them are one.

    ``\boxed 5`` counts up to the next space.
    """
    contents: list[tuple[int, int, int]] = []  # where the content of a box begins and ends, and where the box ends
    open_braces: list[int | None] = []  # where the content of a box begins, None for another brace
    for match in _BOX_OR_BRACE.finditer(response):  # also passes over the escaped braces of \{ and \}
        if match["box"]:
            open_braces.append(match.end())
        elif match["bare"]:
            contents.append((match.start("bare"), match.end(), match.end()))
        elif match["open"]:
            open_braces.append(None)
        elif match["close"] and open_braces:
            begin = open_braces.pop()
            # of a box in a box the inner one counts
            if begin is not None and not (contents and contents[-1][0] > begin):
                contents.append((begin, match.start(), match.end()))
    joined: list[tuple[int, str]] = []
    for begin, end, box_end in sorted(contents):
        content = response[begin:end]
        if joined and _are_one_answer(response[joined[-1][0] : begin], joined[-1][1], content):
            content = f"{joined.pop()[1]}, {content}"
        joined.append((box_end, content))
    return joined


def _are_one_answer(between: str, first: str, second: str) -> bool:
    """Whether two boxes hold parts of one answer: nothing but "and" and markup is between them."""
    if len(between) > 100 or "\n\n" in between:
        return False
    between = re.sub(r"\s+", " ", _IGNORED_BETWEEN_BOXES.sub(" ", _IGNORED_BETWEEN_BOXES.sub(" ", between.rstrip())))
    has_word = bool(between.strip(" "))
    return _BETWEEN_BOXES.fullmatch(between) is not None and (has_word or first.strip() != second.strip())


def clean(cut: str) -> str:
    """Remove what surrounds an answer without being part of it; applying it twice changes nothing."""
    while True:
        text = unwrap_text_commands(cut)
        text = remove_emphasis(text)
        for markup in ("\\$", "$", "\\(", "\\)", "\\[", "\\]"):
            text = text.replace(markup, "")
        text = strip_edges(_WIDE_SPACE.sub(" ", text))
        if text == cut:
            return text
        cut = text
