"""How the authors of DynaMath, and how VLMEvalKit, judge the JSON reply that their prompts ask for.

A reply without such an object is checked by hand by the authors, and read by a judge model in VLMEvalKit; our
final-answer cut takes the place of both. The two compare in opposite directions: a text is right for the authors if the
gold answer is a part of it, for VLMEvalKit if it is a part of the gold answer.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from datamodules.answers.extract import extract_final_answer
from datamodules.benchmarks.question import BenchmarkQuestion, Grade

TOLERANCE = 1e-3
SHORT_ANSWER = "short answer"

_LETTERS = "ABCDE"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def grade_as_authors(question: BenchmarkQuestion, response: str) -> Grade:
    """Judge as the authors: a float within 0.001, a letter in the first three characters, text that holds the gold."""
    reply = _json_object(_CONTROL.sub("", response))
    answer = extract_final_answer(response).text if reply is None else str(reply.get(SHORT_ANSWER))
    gold = question.gold[0]
    if question.answer_type == "float":
        value, target = _float(answer), _float(gold)
        is_correct = value is not None and target is not None and abs(value - target) <= TOLERANCE
    elif question.answer_type == "letter":
        is_correct = answer == gold if len(answer) == 1 else gold in answer[:3]
    else:
        is_correct = gold in answer
    return Grade(is_correct, answer.strip() or None, "response" if answer.strip() else "none")


def grade_as_vlmevalkit(question: BenchmarkQuestion, response: str) -> Grade:
    """Judge as VLMEvalKit: a float within 0.001, the only letter A to E, text that is a part of the gold answer."""
    text = _outer_braces(response).replace("\\", "")
    reply = _parsed(text, strict=False)
    short = reply.get(SHORT_ANSWER) if reply is not None else None
    gold = question.gold[0]
    cut = extract_final_answer(response).text
    texts = [short] if isinstance(short, str) else []
    texts += [text] if question.answer_type == "text" else [text, cut]
    answers = (_read(each, question.answer_type) for each in texts)
    answer = next((each for each in answers if each is not None), None)
    if answer is None:
        # Where nothing can be read, the first three characters of the reply may still hold the letter.
        return Grade(question.answer_type == "letter" and gold in text[:3].upper(), None, "none")
    if question.answer_type == "float":
        target = _float(gold)
        is_correct = target is not None and abs(float(answer) - target) <= TOLERANCE
    else:
        is_correct = answer == gold if question.answer_type == "letter" else answer.lower() in gold.lower()
    return Grade(is_correct, answer.strip() or None, "response" if answer.strip() else "none")


def _json_object(text: str) -> dict[str, Any] | None:
    """The object between the first and the last brace; backslashes are left out where they break it."""
    inside = _outer_braces(text)
    return _parsed(inside) or _parsed(inside.replace("\\", ""))


def _outer_braces(text: str) -> str:
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _parsed(text: str, strict: bool = True) -> dict[str, Any] | None:
    try:
        content = json.loads(text, strict=strict)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _float(text: str) -> float | None:
    """What Python reads before the first space, or before the sign π times π; None where that is no number."""
    number, pi, _ = text.split(" ")[0].partition("π")
    try:
        value = float(number) * (math.pi if pi else 1.0)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read(text: str, answer_type: str) -> str | None:
    """The text, the letter, or the number (as Python writes it) that VLMEvalKit reads; None where there is none."""
    if answer_type == "letter":
        upper = text.upper()
        letters = [letter for letter in _LETTERS if letter in upper]
        return upper if len(upper) == 1 else letters[0] if len(letters) == 1 else None
    if answer_type != "float":
        return text
    value = _float(text)
    return None if value is None else repr(value)
