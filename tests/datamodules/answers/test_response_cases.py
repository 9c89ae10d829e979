"""Kinds of responses that released models write: options, numbers and formulas in sentences."""

from collections import Counter

import pytest
from letter_forms import LETTER_FORMS
from response_cases import ANGLES, CHAINS, CHANGES, CLOCKS, LETTERS, PLAIN, RATIOS, RESPONSE_CASES, YES_NO

from datamodules.benchmarks import BENCHMARKS
from datamodules.benchmarks.base import BenchmarkQuestion


def make_question(benchmark, answer_type, gold, options=(), text="?"):
    lettered = dict(zip("ABCDEFGHI", options, strict=False))
    return BenchmarkQuestion(benchmark, "1", text, (), (gold,), lettered, answer_type)


@pytest.mark.parametrize(
    ("benchmark", "answer_type", "gold", "options", "text", "response", "verdict"),
    [pytest.param(*case[1:], id=f"{number}: {case[0]}") for number, case in enumerate(RESPONSE_CASES)],
)
def test_verdict(benchmark, answer_type, gold, options, text, response, verdict):
    question = make_question(benchmark, answer_type, gold, options, text)
    grade = BENCHMARKS[benchmark]().grade(question, response)
    assert grade.is_correct is verdict, f"read {grade.extracted_answer!r} ({grade.status})"


def test_no_case_twice_and_both_verdicts():
    assert max(Counter(repr(case[1:]) for case in RESPONSE_CASES).values()) == 1
    assert sum(case[-1] for case in RESPONSE_CASES) > 40
    assert sum(not case[-1] for case in RESPONSE_CASES) > 30


SETS = [
    ANGLES,
    PLAIN,
    RATIOS,
    CHAINS,
    CHANGES,
    CLOCKS,
    LETTERS,
    YES_NO,
    ("2", "4", "12", "24"),
    ("x = 1", "x = 2", "y = 1"),
]


@pytest.mark.parametrize("form", LETTER_FORMS)
def test_a_letter_alone_names_its_option_and_no_other(form):
    for options in SETS:
        for letter, _ in zip("ABCDE", options, strict=False):
            question = make_question("MathVision", "letter", letter, options)
            assert BENCHMARKS["MathVision"]().grade(question, form.format(letter)).extracted_answer == letter


def test_there_are_as_many_forms_as_the_guide_says():
    assert len(set(LETTER_FORMS)) == 38


@pytest.mark.parametrize("options", SETS)
@pytest.mark.parametrize("form", ["We look.\n\n{}", r"So \boxed{{{}}}", "Answer: {}", "The answer is {}.", "**{}**"])
def test_the_text_of_an_option_names_it(options, form):
    for letter, text in zip("ABCDE", options, strict=False):
        question = make_question("MathVision", "letter", letter, options)
        assert BENCHMARKS["MathVision"]().grade(question, form.format(text)).extracted_answer == letter


GOLDS = [
    "1:4:9", "4:30", "x^2+y^2=1", r"\frac{x^2}{4}-y=1", "x >= 5", "0.0 - 0.2", "y = 2x + 1", "(x, y)=(1, 2)", "12 cm",
    "S 20° W", r"\{1, 2\}", "3 hours 20 minutes", "isosceles", "f(x)=x^2-4", "AB : CD = 1 : 2", "-7", "5=s", "1,234",
]  # fmt: skip


@pytest.mark.parametrize("gold", GOLDS)
@pytest.mark.parametrize(
    "form", ["We look.\n\n{}", "We look.\n\n${}$", r"So \boxed{{{}}}", "Answer: {}", "**Answer:** {}"]
)
def test_a_right_answer_fed_back_is_accepted(gold, form):
    question = make_question("MathVerse-VO", "expression", gold)
    assert BENCHMARKS["MathVerse-VO"]().grade(question, form.format(gold)).is_correct
