"""Cut the final answer out of a response, and read option letters from the cut."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from datamodules.answers.normalize import normalize, strip_edges, text_key, unwrap_text_commands

Status = Literal["boxed", "tag", "marker", "last_line", "none"]

MAX_SHORT_LENGTH = 60
MAX_SHORT_WORDS = 6
MAX_CUT_LENGTH = 2000

_BOX_OR_BRACE = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\boxed\s+(?P<bare>[^\s{$]+)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL
)
_TAG = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_SUBJECT = r"\b(?:(?:final|correct)\s+)*answer|\bcorrect\s+(?:option|choice)"
_MARKER = re.compile(rf"(?:{_SUBJECT})\s*(?:\b(?:is|was)\b|[:=：])[\s*:=_]*(?P<tail>\S[^\n]*)", re.IGNORECASE)
_HEADING = re.compile(r"^\W*(?:final\s+)?answer\W*\n+\s*(?P<tail>\S[^\n]*)", re.IGNORECASE | re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=\S)\.\s+(?=[A-Z])")
_LAST_VALUE = re.compile(r"^.*(?:=|\b(?:is|are|equals|be)\b\s*:?|:)\s*(?P<tail>\S.{0,30})$", re.DOTALL)


@dataclass(frozen=True)
class ExtractedAnswer:
    """The final answer of a response.

    Attributes:
        text: The cut, without LaTeX text commands, dollar signs, emphasis, quotes and a final full stop.
        status: Where it was found: in the last box, an ``<answer>`` tag, behind "the answer is", in the last line, or
            nowhere (then `text` is empty).
    """

    text: str
    status: Status

    @property
    def short_text(self) -> str | None:
        """The cut, if it can be a free-form answer: a last line that is a whole sentence is none."""
        if not self.text:
            return None
        is_long = len(self.text) > MAX_SHORT_LENGTH or len(self.text.split()) > MAX_SHORT_WORDS
        return None if self.status == "last_line" and is_long else self.text


def extract_final_answer(response: str) -> ExtractedAnswer:
    r"""Cut the final answer out of a response.

    Tried in turn: the last ``\boxed{...}`` with balanced braces, the last ``<answer>...</answer>``, what follows the
    last "(final) answer is" / "answer:" / "correct option is", the last line that is not blank (of which only the tail
    behind its last "=" or "is", if it is short).
    """
    for cut, status in _candidates(response):
        text = clean(cut[-MAX_CUT_LENGTH:])
        if text:
            return ExtractedAnswer(text, status)
    return ExtractedAnswer("", "none")


def _candidates(response: str) -> list[tuple[str, Status]]:
    found: list[tuple[str, Status]] = [(cut, "boxed") for cut in reversed(_boxed_contents(response))]
    found += [(cut, "tag") for cut in reversed(_TAG.findall(response))]
    marked = [match for pattern in (_MARKER, _HEADING) for match in pattern.finditer(response)]
    if marked:
        tail = max(marked, key=lambda match: match.start("tail"))["tail"]
        found.append((_SENTENCE_END.split(tail)[0], "marker"))
    lines = [line for line in response.splitlines() if line.strip()]
    if lines:
        last = clean(lines[-1][-MAX_CUT_LENGTH:])
        value = _LAST_VALUE.match(last)
        found += [(value["tail"], "last_line")] if value else []
        found.append((last, "last_line"))
    return found


def _boxed_contents(response: str) -> list[str]:
    r"""Contents of all boxes whose braces are balanced, in order; ``\boxed 5`` counts up to the next space."""
    contents: list[tuple[int, str]] = []
    open_braces: list[int | None] = []  # where the content of a box begins, None for another brace
    for match in _BOX_OR_BRACE.finditer(response):  # also passes over the escaped braces of \{ and \}
        if match["box"]:
            open_braces.append(match.end())
        elif match["bare"]:
            contents.append((match.start("bare"), match["bare"]))
        elif match["open"]:
            open_braces.append(None)
        elif match["close"] and open_braces:
            begin = open_braces.pop()
            if begin is not None:
                contents.append((begin, response[begin : match.start()]))
    return [content for _, content in sorted(contents)]


def clean(cut: str) -> str:
    """Remove what surrounds an answer without being part of it; applying it twice changes nothing."""
    while True:
        text = unwrap_text_commands(cut)
        for markup in ("**", "\\$", "$", "\\(", "\\)", "\\[", "\\]"):
            text = text.replace(markup, "")
        text = strip_edges(text.replace("\\ ", " "))
        if text == cut:
            return text
        cut = text


def extract_letters(answer: str, letters: str) -> frozenset[str]:
    """Option letters that stand alone in a final-answer cut.

    Read as letters: an answer made of nothing but letters (``B``, ``(b)``, ``B, D``, ``B and D``, ``BD``; up to four
    without separators); else letters in parentheses; else a first letter that no word follows (``B. 12 cm``, but not
    ``A triangle``); else letters behind "option" or "choice"; else a last word that is a letter, the only one in the
    cut, and introduced by "is", "so" or a comma.

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
    for pattern in (
        rf"(?<!\w)\(\s*({allowed})\s*\)",
        rf"^\W*({allowed})\b(?!['’]|\s*\w{{2,}}|\s*[=+*/^<>])",
        rf"(?i:\b(?:option|choice|answer)s?)\s+(?:is\s+)?({allowed})\b(?!['’])",
    ):
        found = re.findall(pattern, text)
        if found:
            return frozenset(found)
    alone = re.findall(rf"(?<![\w'’])({allowed})(?![\w'’])", text)
    if len(alone) == 1 and re.search(rf"(?:\bis|\bbe|,|:|so|thus|therefore)\s+{allowed}\W*$", text):
        return frozenset(alone)
    return frozenset()


def extract_option(answer: str, options: Mapping[str, str], letters: str) -> str | None:
    """The one option that a final-answer cut names, by letter or by exactly its text.

    Args:
        answer: The cut.
        options: Letter to text; may be empty when the texts are not known.
        letters: Letters that may occur, upper-case.

    Returns:
        The letter; None if no option or more than one is named. Nothing is guessed.
    """
    text = normalize(answer)
    if re.fullmatch(rf"\W*[{re.escape(letters)}]\W*", text):
        return re.sub(r"[\W_]", "", text)
    by_text = [letter for letter, option in options.items() if text and _is_same_text(text, option)]
    if len(by_text) == 1:
        return by_text[0]
    lettered = re.match(rf"\W*([{re.escape(letters)}])\W+(.+)$", text)
    if lettered and lettered[1] in options and _is_same_text(lettered[2], options[lettered[1]]):
        return lettered[1]
    found = extract_letters(answer, letters)
    return next(iter(found)) if len(found) == 1 else None


def _is_same_text(answer: str, option: str) -> bool:
    option_key = text_key(normalize(option))
    return bool(option_key) and text_key(answer) == option_key
