"""The one option that a response chooses."""

from __future__ import annotations

import re
from collections.abc import Mapping

from datamodules.answers.extract import ExtractedAnswer, clean
from datamodules.answers.last_line import value_of_formula
from datamodules.answers.letters import (
    OPTION_LETTERS,
    extract_letters,
    extract_option,
    is_option_text,
    option_with_text,
)
from datamodules.answers.normalize import normalize
from datamodules.answers.sentences import (
    concludes,
    is_condition,
    is_negated,
    is_undecided,
    split_sentences,
)
from datamodules.answers.statements import has_numbers, option_in_sentence
from datamodules.answers.yes_no import read_yes_no, yes_no_letters

_LISTED = re.compile(r"\s*\(?([A-I])\s*[).:]\s*\S")
_LABELLED_VALUE = re.compile(r"\W*[A-Z][A-Za-z ]{1,30}:\s*-?[\d.,]+\W*")
_LETTER_LINE = re.compile(r"\W*(?:(?i:option|choice|answer)\s*:?\s*)?([A-I])\W*")
_LAST_LETTER = re.compile(r"[.!?。]\W*\b([A-I])\W*$")
_BOLD_LETTER = re.compile(
    r"(?P<verb>\b(?:is|option|choice|answer)\s*:?\s*)?\*\*\s*\(?(?P<letter>[A-I])\)?\s*\.?\s*\*\*"
)
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_DECLARED = re.compile(
    r"(?i:\b(?:options?|choices?|images?|figures?|scenarios?|pictures?|graphs?|proposals?|letters?|answers?))\s+(?:is\s+)?"
    r"[\"“(*]*([A-I])\b(?!['’])(?![\"”)*]*\s*(?:and|or|,|&)\s*[\"“(*]*[A-I]\b)"
    r"|选项?\s*(?:为|是|：|:)?\s*[\"“(（]*([A-I])(?![A-Za-z])"
    r"|(?:答案|正确的)[是为选：:\s]*[\"“(（]*([A-I])(?![A-Za-z])"
)
_DENIED = re.compile(
    r"\b(?:not|isn['’]t|wrong|incorrect|neither|nor|between|eliminate|rule out|exclude)\b|不|错误", re.IGNORECASE
)


def read_option(extracted: ExtractedAnswer, options: Mapping[str, str], letters: str, question: str = "") -> str | None:
    """The option that a response chooses.

    Looked at in turn: the uncut line, if it is exactly the text of one option; the cut, see
    :func:`datamodules.answers.letters.extract_option`; a lone letter in the first or behind the last sentence; the
    sentences themselves, the concluding one first: "option C", yes or no, an option's text, a number; the only letter
    in bold type.

    Args:
        extracted: The cut, with the line and the response that it stands in.
        options: Letter to text; may be empty when the texts are not known.
        letters: Letters that may occur, upper-case.
        question: As asked; numbers that it gives are not read as answers, and "yes" may be said in its words.

    Returns:
        The letter; None if no option or more than one is chosen. Nothing is guessed.
    """
    if _LETTER_LINE.fullmatch(extracted.line) and extracted.status != "last_line":
        return extract_option(extracted.text, options, letters)
    verbatim = [letter for letter, option in options.items() if is_option_text(extracted.line, option)]
    if len(verbatim) == 1:
        return verbatim[0]
    if extracted.status in ("boxed", "tag"):
        found = extract_option(extracted.text, options, letters)
        value = value_of_formula(extracted.text)
        return found or (option_with_text(value, options) if value != extracted.text and options else None)
    if _is_listing(extracted.body, letters):
        return None
    found = None if _is_no_choice(extracted.text) else extract_option(extracted.text, options, letters)
    if found or _names_several(extracted.text, letters):
        return found
    pair = yes_no_letters(options)
    if pair:
        said = read_yes_no(extracted.line if extracted.status == "marker" else extracted.body, question)
        alone = _lone_letter(extracted.body, letters) if extracted.status == "last_line" else None
        declared = _declared(split_sentences(extracted.line)[-1], letters) if extracted.line else set()
        if said is None and len(declared) == 1:
            return declared.pop()
        return alone or (None if said is None else pair[0] if said else pair[1])
    if extracted.status == "last_line":
        found = _lone_letter(extracted.body, letters) or _in_sentences(extracted.body, options, letters, question)
        return found or _only_bold(extracted.body, letters)
    declared = _declared(extracted.line, letters)
    return declared.pop() if len(declared) == 1 else option_in_sentence(extracted.line, options, question)


def _names_several(text: str, letters: str) -> bool:
    return len(extract_letters(text, letters)) > 1


def _is_no_choice(line: str) -> bool:
    """Whether a line says that no option can be chosen, and does not name one all the same."""
    return is_undecided(line) and re.search(r"(?i:option|answer)\W*(?:is\W*)?\(?[A-I]\b(?! and| or)", line) is None


def _is_listing(body: str, letters: str) -> bool:
    """Whether the last lines list options, as the question does, and nothing in front of them names one."""
    lines = [line for line in body.splitlines() if line.strip()]
    listed = []
    while lines and (match := _LISTED.match(lines[-1])) and match[1] in letters and match[1] not in listed:
        listed.append(match[1])
        lines.pop()
    values = [_LABELLED_VALUE.fullmatch(line) for line in lines[-2:]]
    return len(listed) > 1 or (len(values) == 2 and all(values))


def _lone_letter(body: str, letters: str) -> str | None:
    """A letter that is all of the first line, or that stands alone behind the last sentence."""
    lines = [line for line in body.splitlines() if line.strip()]
    match = _LETTER_LINE.fullmatch(lines[0]) if lines else None
    match = match or _LAST_LETTER.search(body)
    return match[1] if match and match[1] in letters else None


def _only_bold(body: str, letters: str) -> str | None:
    """The only letter that is all of a piece in bold type, if it is introduced: "the next picture is **(B)**"."""
    found = {(match["letter"], bool(match["verb"])) for match in _BOLD_LETTER.finditer(body)}
    if len({letter for letter, _ in found}) != 1 or any(map(is_undecided, split_sentences(body))):
        return None
    letter, is_introduced = max(found)
    return letter if is_introduced and letter in letters else None


def _in_sentences(body: str, options: Mapping[str, str], letters: str, question: str) -> str | None:
    sentences = split_sentences(body)
    order = [sentences[-1]] if sentences else []
    order += [sentence for sentence in reversed(sentences[:-1]) if concludes(sentence)][:1]
    order += sentences[:1]
    asks_if = re.search(r"\b(?:if|when|would|happens?|imagine|suppose)\b", question, re.IGNORECASE) is not None
    for sentence in dict.fromkeys(order):
        if is_condition(sentence):
            condition, _, main_clause = sentence.partition(", ")
            if not asks_if or has_numbers(main_clause) or _has_other_numbers(condition, question):
                continue
            named = option_in_sentence(clean(main_clause), options, question) if not is_negated(main_clause) else None
            if named:
                return named
            continue
        declared = _declared(sentence, letters)
        if declared:
            return declared.pop() if len(declared) == 1 else None
        if is_undecided(sentence):
            return None
        if not is_negated(sentence):
            named = option_in_sentence(clean(sentence), options, question)
            if named:
                return named
    begun = {match[1] for line in sentences if (match := re.match(r"\(([A-I])\)\s", line)) and match[1] in letters}
    return begun.pop() if len(begun) == 1 else None


def _has_other_numbers(condition: str, question: str) -> bool:
    """Whether a condition has numbers that the question does not give; then another case may be asked about."""
    asked = set(_DIGITS.findall(question))
    return has_numbers(_DIGITS.sub(lambda match: " " if match.group() in asked else match.group(), condition))


def _declared(sentence: str, letters: str) -> set[str]:
    """Letters that a sentence names as options, unless it denies or compares them."""
    if _DENIED.search(sentence) or (is_undecided(sentence) and not re.search(r"\b(?:correct|answer)\b", sentence)):
        return set()
    found = {next(filter(None, match)) for match in _DECLARED.findall(normalize(sentence))}
    return {letter for letter in found if letter in letters and letter in OPTION_LETTERS}
