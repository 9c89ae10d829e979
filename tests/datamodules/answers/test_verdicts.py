"""The verdicts that people give on hand-written responses, and those of the code that grades them."""

from collections import Counter

import pytest

from datamodules.benchmarks import BENCHMARKS
from datamodules.benchmarks.base import BenchmarkQuestion
from datamodules.prompts import grade_by_answer
from verdict_cases import CASES, OPTIONS

# Kind of answer: the benchmark that grades it, its answer type, and the decimals asked for.
ROADS = {
    "free": ("MathVision", "expression", None),
    "choice": ("MathVision", "letter", None),
    "letter": ("WeMath", "letter", None),
    "letters": ("LogicVista", "letters", None),
    "integer": ("MathVista", "integer", None),
    "float1": ("MathVista", "float", 1),
    "float2": ("MathVista", "float", 2),
    "list": ("MathVista", "list", None),
    "text": ("MathVista", "text", None),
    "tolerance": ("DynaMath", "float", None),
    "word": ("DynaMath", "text", None),
    "open": ("MMMU", "expression", None),
}


def grade(kind, gold, response):
    if kind == "annotation":
        return grade_by_answer(gold)(response)
    benchmark, answer_type, precision = ROADS[kind]
    question = BenchmarkQuestion(
        benchmark=benchmark,
        question_id="1",
        question="?",
        images=(),
        gold=tuple(gold) if isinstance(gold, list) else (gold,),
        options=OPTIONS if kind == "choice" else {},
        answer_type="text" if kind == "letters" and gold.isdigit() else answer_type,
        precision=precision,
    )
    return BENCHMARKS[benchmark]().grade(question, response)


@pytest.mark.parametrize(
    ("kind", "gold", "response", "verdict", "reason"),
    [pytest.param(*case[1:], id=f"{number}: {case[0]}") for number, case in enumerate(CASES)],
)
def test_verdict(kind, gold, response, verdict, reason):
    grade_given = grade(kind, gold, response)
    assert grade_given.is_correct is verdict, f"{reason}; read {grade_given.extracted_answer!r}"


def test_there_are_enough_cases_of_both_verdicts_and_none_twice():
    assert len(CASES) >= 150
    assert max(Counter(repr(case[1:4]) for case in CASES).values()) == 1
    assert sum(case[4] for case in CASES) > 100
    assert sum(not case[4] for case in CASES) > 80
