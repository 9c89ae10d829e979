"""The official rules: verdicts worked out by hand from descriptions of the authors' scripts, and the seeded draw."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples

from datamodules.benchmarks import BENCHMARKS, BenchmarkQuestion
from datamodules.benchmarks.mmmu_official import key_phrases, normalized, numbers_in


def question(gold, options=None, answer_type="letter", precision=None, **metadata):
    golds = gold if isinstance(gold, tuple) else (gold,)
    return BenchmarkQuestion("b", "7", "q", (), golds, options or {}, answer_type, precision, metadata)


def judged(name, asked, response):
    grade = BENCHMARKS[name](rules="official").grade(asked, response)
    return grade.is_correct, grade.extracted_answer


OPTIONS = {"A": "a red fox", "B": "the grey wolf", "C": "none of these"}


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("'B'", "B"),
        ("(B)", "B"),
        ("First (A), but in the end (B) and not (A", "B"),
        ("It could be (B). No: (A)", "A"),  # the last in parentheses
        ("A B", "B"),  # the last between spaces
        ("(A) is what I say, B", "A"),  # parentheses come first
        ("So the animal must be the grey wolf here", "B"),
        ("the grey wolf", None),  # no more than five words
        (r"Long talk about (A). Answer: \boxed{B}", "B"),  # the box alone
        (r"\boxed{(C)}", "C"),
        ("I do not know", None),
        ("", None),
    ],
)
def test_mmmu_choices(response, answer):
    is_correct, found = judged("MMMU", question("B", OPTIONS), response)
    assert found == answer
    if answer is not None:
        assert is_correct == (answer == "B")


def test_mmmu_draws_an_option_where_none_can_be_read():
    asked = question("B", OPTIONS)
    responses = [f"Hard to say, number {n}" for n in range(600)]
    verdicts = [judged("MMMU", asked, response) for response in responses]
    assert all(answer is None for _, answer in verdicts)  # no vote, and not parsed
    right = sum(is_correct for is_correct, _ in verdicts)
    # One in three, within four standard deviations, and the same every time.
    assert abs(right - 200) < 4 * math.sqrt(600 * 2 / 9)
    assert [judged("MMMU", asked, response) for response in responses] == verdicts
    other = BenchmarkQuestion("b", "8", "q", (), ("B",), OPTIONS, "letter")
    assert [judged("MMMU", other, response) for response in responses] != verdicts
    assert Counter(BENCHMARKS["MMMU"]().grade(asked, r).is_correct for r in responses) == {False: 600}


@pytest.mark.parametrize(
    ("gold", "response", "is_correct"),
    [
        ("Transformation", "So it is a transformation of sorts", True),  # a part of the phrase
        ("Transformation", "It is a translation", False),
        ("1.06", "Hence 2 + 3\nthe answer is 1.0612 meters", True),  # any number, to two decimals
        ("1.06", "the answer is 1.07", False),
        ("1.06", "x = 1.06", True),
        (("24/7", "3.429"), "so about 3.43", True),
        (("24/7", "3.429"), r"\boxed{\frac{24}{7}}", False),
        ("C", "so vitamin c", True),  # a letter at a space
        ("C", "so calcium", False),
        ("1000", "the result is 1,000", True),
    ],
)
def test_mmmu_open_questions(gold, response, is_correct):
    assert judged("MMMU", question(gold, answer_type="expression"), response)[0] is is_correct


def test_pieces_of_the_open_rule():
    # The shortest tail of each line; "=" only in the last; lines without an indicator give nothing.
    text = "We add them.\nSo 3 = 1 + 2 is right.\nThe final answer is x = 4."
    assert key_phrases(text) == ["right.", "4"]
    assert key_phrases("No word of it.") == ["no word of it"]
    assert numbers_in("-.5 and 7.25 and -3") == ["-.5", "7.25", "-3"]
    assert numbers_in("2.5e-3")[0] == "2.5e-3"
    assert numbers_in("1,234") == ["1,234", "234"]  # also what stands behind the comma, as in the authors' script
    assert normalized("1,234.567") == [1234.57]
    assert normalized("C") == [" c", "c "]
    assert normalized(" Ab ") == ["ab"]


@settings(max_examples=examples(40), deadline=None)
@given(st.text(max_size=60))
def test_official_rules_never_fail(response):
    free = {"answer_type": "float", "precision": 1, "has_precision": True}
    for name in BENCHMARKS:
        benchmark = BENCHMARKS[name](rules="official")
        for asked in (question("B", OPTIONS), question("1.0", **free), question("B, D", answer_type="letters")):
            grade = benchmark.grade(asked, response)
            assert grade.extracted_answer != ""


# ---- MathVista

ANIMALS = {"A": "fox", "B": "wolf", "C": "dog"}


@pytest.mark.parametrize(
    ("response", "is_correct", "answer"),
    [
        (r"\boxed{B}", True, "B"),
        (r"\boxed{(b) wolf}", True, "B"),
        (r"\boxed{wolf}", True, "B"),
        (r"\boxed{wolves}", True, None),  # nearest: three edits, five to dog and fox
        (r"\boxed{do}", False, None),  # nearest to dog
        ("", False, None),  # the shortest option is the nearest
        (r"\boxed{(A) or (B)}", False, "A"),  # the first letter in parentheses
    ],
)
def test_mathvista_choices(response, is_correct, answer):
    assert judged("MathVista", question("B", ANIMALS), response) == (is_correct, answer)


@pytest.mark.parametrize(
    ("answer_type", "gold", "precision", "response", "is_correct"),
    [
        ("integer", "14", None, "14.9", True),  # truncated
        ("integer", "14", None, "15", False),
        ("integer", "14", None, "14 g", False),
        ("integer", "1000", None, "1,000", False),
        ("float", "1.4", 1, "1.449", True),
        ("float", "1.4", 1, "1.46", False),
        ("float", "1.20", 2, "1.2", False),  # compared as text
        ("float", "1.4", None, "1.4", False),  # no precision
        ("list", "[1, 2]", None, "[1, 2]", True),
        ("list", "[1, 2]", None, "[1,2]", False),
    ],
)
def test_mathvista_free_form(answer_type, gold, precision, response, is_correct):
    asked = question(gold, {}, answer_type, precision or 1, has_precision=precision is not None)
    assert judged("MathVista", asked, rf"\boxed{{{response}}}")[0] is is_correct


# ---- the others


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (r"\boxed{B}", (True, "B")),
        (r"\boxed{6 cm}", (True, "6 cm")),
        (r"\boxed{6.0 cm}", (False, "6.0 cm")),
        (r"The answer is B", (False, None)),  # no box
    ],
)
def test_mathvision_choices(response, verdict):
    assert judged("MathVision", question("B", {"A": "3 cm", "B": "6 cm"}), response) == verdict


def test_mathvision_free_form():
    asked = question("0.5", answer_type="expression")
    for response, is_correct in ((r"\frac{1}{2}", True), ("0.5000001", True), ("0.50001", False), ("0.5 cm", False)):
        assert judged("MathVision", asked, rf"\boxed{{{response}}}")[0] is is_correct


def test_mathverse_compares_text():
    for gold, response, is_correct in (("D", "D", True), ("D", "140°", False), ("0.5m", "50 cm", False)):
        asked = question(gold, {"D": "140°"} if gold == "D" else {})
        assert judged("MathVerse-VO", asked, rf"\boxed{{{response}}}")[0] is is_correct


@pytest.mark.parametrize(
    ("kind", "gold", "response", "verdict"),
    [
        ("float", "2.0944", '{"solution": "..", "short answer": "2.094"}', (True, "2.094")),
        ("float", "2.0944", '{"short answer": "2.09"}', (False, "2.09")),
        ("float", "3.1416", '{"short answer": "1π"}', (True, repr(math.pi))),
        ("float", "3.1416", '{"short answer": "π"}', (False, None)),
        ("float", "3.141", '{"short answer": 3.141}', (False, None)),  # a number is no string
        ("float", "3.141", '{"short answer": "3.141 rad"}', (True, "3.141")),
        ("float", "3.141", r"\boxed{3.141}", (False, None)),
        ("letter", "A", r"\boxed{A}", (True, "A")),
        ("letter", "A", '{"short answer": "a"}', (True, "A")),
        ("letter", "A", '{"short answer": "A and B"}', (False, None)),
        ("text", "Sep", '{"short answer": "sep"}', (True, "sep")),
        ("text", "Sep", '{"short answer": "s"}', (True, "s")),  # a part of the gold answer
        ("text", "Sep", "", (True, None)),  # even an empty one
        ("text", "Sep", "It is Sep", (False, "It is Sep")),  # compared as a whole
    ],
)
def test_dynamath(kind, gold, response, verdict):
    assert judged("DynaMath", question(gold, answer_type=kind), response) == verdict


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<Thought process>: <<..>> <Answer>: <<B>>", "B"),
        ("**Answer: B**", "B"),
        (r"Answer: \boxed{B}", None),
        ("The correct option is B", None),
        ("Answer: Because..", "B"),
    ],
)
def test_wemath(response, answer):
    assert judged("WeMath", question("B", OPTIONS), response) == (answer == "B", answer)


def test_logicvista():
    asked = question("B, D", answer_type="letters")
    for response, verdict in (
        ("BD", (True, "BD")),
        ("DB", (True, "DB")),
        ("B, D", (False, None)),
        ("BDD", (False, "BDD")),
    ):
        assert judged("LogicVista", asked, rf"\boxed{{{response}}}") == verdict
    assert judged("LogicVista", question("3", answer_type="text"), r"\boxed{3}") == (False, None)
