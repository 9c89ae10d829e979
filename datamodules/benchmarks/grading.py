"""Verdicts and averages that several benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.answers.choice import read_option
from datamodules.answers.compare import answers_equal
from datamodules.answers.extract import ExtractedAnswer, extract_final_answer
from datamodules.answers.normalize import normalize, text_key
from datamodules.benchmarks.question import OPTION_LETTERS, BenchmarkQuestion, Grade


def as_scores(questions: Sequence[BenchmarkQuestion], correct: np.ndarray) -> np.ndarray:
    """``correct`` as float64 after a check of its length and range.

    Raises:
        ValueError: If it does not have one row a question, or values outside of [0, 1].
    """
    scores = np.asarray(correct, dtype=np.float64)
    if scores.ndim not in (1, 2) or scores.shape[0] != len(questions):
        raise ValueError(f"expected shape ({len(questions)},) or ({len(questions)}, M), got {scores.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("verdicts must lie in [0, 1]; at least one does not, or is NaN")
    return scores


def accuracy_by(
    questions: Sequence[BenchmarkQuestion], correct: np.ndarray, key: str, label: str | None = None
) -> dict[str, float]:
    """Accuracy of every value of a metadata key, as ``"label/value"``; every item of a list counts."""
    scores = as_scores(questions, correct)
    groups: dict[str, list[float]] = {}
    for question, score in zip(questions, scores, strict=True):
        value = question.metadata.get(key)
        values = value if isinstance(value, list | tuple) else [value]
        for name in values:
            if name not in (None, ""):
                groups.setdefault(f"{label or key}/{name}", []).append(float(score))
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}


def with_options(question: str, options: dict[str, str]) -> str:
    """The question followed by one line an option, ``A. text``."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in options.items())])


def grade_option(question: BenchmarkQuestion, extracted: ExtractedAnswer, letters: str = OPTION_LETTERS) -> Grade:
    """Grade a multiple-choice answer: one option letter, or exactly the text of one option."""
    allowed = "".join(question.options) or letters
    letter = read_option(extracted, question.options, allowed, question.question)
    return Grade(letter is not None and letter in question.gold, letter, extracted.status)


def grade_expression(question: BenchmarkQuestion, extracted: ExtractedAnswer) -> Grade:
    """Grade a free-form answer that must equal one of the gold answers as mathematics or as text."""
    answer = extracted.short_text
    if answer is not None and any(answers_equal(answer, gold) for gold in question.gold):
        return Grade(True, answer, extracted.status)
    # A cut may have lost what a right answer says: an equation its left side, a sentence its beginning.
    if any(_is_same_text(extracted.line, gold) for gold in question.gold):
        return Grade(True, extracted.line, extracted.status)
    formula = extracted.formula
    is_formula_right = formula not in (None, answer) and any(
        answers_equal(formula or "", gold) for gold in question.gold
    )
    return Grade(is_formula_right, formula if is_formula_right else answer, extracted.status)


def _is_same_text(answer: str, gold: str) -> bool:
    key = text_key(normalize(gold))
    return bool(key) and text_key(normalize(answer)) == key


def grade_option_or_expression(question: BenchmarkQuestion, response: str) -> Grade:
    """Grade by the answer type: an option for "letter", an expression otherwise."""
    extracted = extract_final_answer(response)
    if question.answer_type == "letter":
        return grade_option(question, extracted)
    return grade_expression(question, extracted)
