"""The part of a last line that is the answer: "so x is 5", "5 is the answer", "$x^2 + y^2 = 1$"."""

from __future__ import annotations

import re

from datamodules.answers.left_sides import named_value
from datamodules.answers.letters import names_option
from datamodules.answers.lists import split_list
from datamodules.answers.normalize import normalize
from datamodules.answers.sentences import is_condition, is_undecided, split_sentences, without_lead
from datamodules.answers.units import UNITS, parse_quantity

MAX_LENGTH = 60
MAX_FORMULA_LENGTH = 200

_VERB = r"\b(?:is|are|was|were|equals|be)\b(?:\s+(?:equal\s+to|about|approximately|then|therefore|only|exactly))?"
_BEHIND_VERB = re.compile(
    rf"^.*(?:{_VERB}\s*:?|(?<=[^\d\s])\s*:(?=\s)|\b(?:gets?|gives?|obtain|yields?|have|has|shows?|value of"
    r"|(?:increases?|decreases?|changes?|differs?)\s+by)\b"
    rf"(?:\s+(?:us|that|the\s+time|a\s+value\s+of))?\s*:?)\s*(?P<tail>\S.{{0,{MAX_FORMULA_LENGTH - 1}}})$",
    re.DOTALL,
)
_VALUE_FIRST = re.compile(
    r"^(?P<head>.{1,60}?)\s+(?:is|are)\s+(?:the\s+|our\s+)?"
    r"(?:(?:final|correct|right|best)\b\s*)?(?:answers?|solutions?|option|choice|one)?$",
    re.IGNORECASE | re.DOTALL,
)
_OPTION_FIRST = re.compile(r"\(?[A-I]\s*[:.)]")
_VALUE_OR_LETTER = re.compile(r"\(?[A-I]\)?")
_WORD = re.compile(r"(?<![\\A-Za-z])(?![A-Z]{3,5}(?![A-Za-z]))[A-Za-z]{3,}(?![A-Za-z])")  # ABC names a triangle
_THERE_ARE = re.compile(
    r"there\s+(?:is|are|was|were|will be)\s+(?:only|exactly|a total of)?\s*(?P<number>\d[\d,]*)\s+[^\d]*$",
    re.IGNORECASE,
)
_TWO_LETTERS = re.compile(r"(?<![\\A-Za-z{])(?:is|at|in|of|to|on|we|it|so|as|by|if|an|no)(?![A-Za-z])", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\}|\\[A-Za-z]+")
_RELATION = re.compile(r"[<>≤≥≠]|!=|\\(?:[lg]e(?:q|qslant)?|[lg]t|neq?)(?![A-Za-z])")
_SPLIT_EQUALS = re.compile(r"(?<![<>!=])=(?!=)")


def values_in_line(line: str) -> list[str]:
    """The part of a last line that is the answer, if it is told apart; else nothing.

    Args:
        line: Cleaned of markup.

    Returns:
        At most one item.
    """
    if _OPTION_FIRST.match(line):
        return []
    sentences = split_sentences(line)
    found = []
    for sentence in [*reversed(sentences)]:
        if is_undecided(sentence) or is_condition(sentence):
            break
        value = value_in_sentence(sentence)
        if value and (is_value(value) or names_option(value)):
            return [value]
        found.append(value)
        if names_option(sentence):
            break
    return [value for value in found[:1] if value]


def value_in_sentence(sentence: str) -> str:
    """The value that a sentence ends or begins with; a formula that is all of a sentence; else nothing."""
    sentence = without_lead(sentence).strip().rstrip(".。")
    if not is_prose(sentence):
        value = value_of_formula(sentence)
        return value if value != sentence or _RELATION.search(value) or "=" in value else ""
    first = _VALUE_FIRST.match(sentence)
    if first:
        head = re.sub(r"^.*\b(?:think|believe|say)\s+(?:that\s+)?", "", first["head"])
        return value_of_formula(head) if not is_prose(head) else head
    there = _THERE_ARE.match(sentence)
    if there:
        return there["number"]
    behind = _BEHIND_VERB.match(sentence)
    if behind and (len(behind["tail"]) <= MAX_LENGTH or not is_prose(behind["tail"])):
        return value_of_formula(behind["tail"])
    equation = re.search(r"(?P<name>\S+)\s*=\s*(?P<tail>[^=]{1,60})$", sentence)
    if equation and not _RELATION.search(equation["tail"]):
        begin = _formula_at_end(sentence)
        return value_of_formula(begin) if "=" in begin else equation["tail"].strip()
    return ""


def _formula_at_end(sentence: str) -> str:
    """What of a sentence stands behind its last word of prose."""
    words = [*_WORD.finditer(_COMMAND.sub(lambda match: "\\" * len(match.group()), sentence))]
    words = [word for word in words if word.group() not in UNITS]
    return sentence[words[-1].end() :].strip(" ,:") if words else sentence


def value_of_formula(text: str) -> str:
    """What a formula comes to: 7 of "3 + 4 = 7" and of "x = 3 + 4 = 7"; an equation in several unknowns stays whole."""
    parts = [part.strip() for part in _SPLIT_EQUALS.split(text)]
    if len(parts) < 2 or not parts[-1] or _RELATION.search(text):
        return text
    if split_list(normalize(text)) is not None and len(parts) > 2:
        return text  # "x = 1, y = 2"
    is_named = named_value(f"{normalize(parts[0])} = 1")[0] != "" or is_prose(parts[0])
    if is_named and (len(parts) == 2 or not _has_unknown(parts[-1])):
        return parts[-1]
    if all(not _has_unknown(part) for part in (parts if len(parts) == 2 else parts[-1:])):
        return parts[-1]
    return text


def _has_unknown(part: str) -> bool:
    """Whether a part of a formula has letters other than units, words and commands."""
    rest = re.sub(
        r"[A-Za-zµΩ]+", lambda match: "" if match.group() in UNITS else match.group(), _COMMAND.sub(" ", part)
    )
    return re.search(r"(?<![A-Za-z])[A-Za-z]{1,2}(?![A-Za-z])", rest) is not None


def is_prose(text: str) -> bool:
    """Whether a text has words that are no units and no LaTeX."""
    bare = _COMMAND.sub(" ", text)
    words = [word for word in _WORD.findall(bare) if word not in UNITS and word.lower() not in ("sqrt", "pi", "and")]
    return bool(words) or _TWO_LETTERS.search(bare) is not None


def is_value(text: str) -> bool:
    """Whether a cleaned text is a number, a quantity or an option letter and nothing else."""
    text = normalize(text)
    return _VALUE_OR_LETTER.fullmatch(text) is not None or parse_quantity(text) is not None
