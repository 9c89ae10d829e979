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
        (r"\boxed{B}", (True, "b")),
        ("B", (True, "b")),  # the whole response
        ("It is long. So (B).", (True, "b")),  # a letter at the end
        ("B\nbecause it is long", (True, "b")),  # and at the beginning
        ("I would say B", (False, "iwouldsayb")),
        (r"\boxed{6 cm}", (True, "6cm")),  # the value of "6 cm" without its space is no number, but the texts agree
        (r"\boxed{A} or \boxed{B}", (True, "b")),
        ("the answer is (B). It is long", (True, "b")),
        ("The correct answer is A\nB", (False, "a")),
        ("", (False, None)),
    ],
)
def test_mathvision_choices(response, verdict):
    assert judged("MathVision", question("B", {"A": "3 cm", "B": "6cm"}), response) == verdict


@pytest.mark.parametrize(
    ("gold", "response", "is_correct"),
    [
        ("0.5", r"\boxed{\frac{1}{2}}", True),
        ("0.5", "so x = 0.504", True),  # to two decimals
        ("0.5", "so x = 0.51", False),
        ("0.5", "0.5 cm", False),  # letters have no value
        ("60", r"the angle is \boxed{60^\circ}", True),
        ("60", "There are 6. The number is 60.", True),  # behind the last "is"
        (r"$2\sqrt{3}$", r"\boxed{2 \sqrt3}", True),
        (r"$2\sqrt{3}$", "3.46", True),
        ("(1, 2)", r"\boxed{(1.001, 2)}", True),  # item by item
        ("(1, 2)", r"\boxed{(2, 1)}", False),
        ("3:4", r"\boxed{0.75}", True),  # a ratio is a quotient
        ("9", "", False),
    ],
)
def test_mathvision_free_form(gold, response, is_correct):
    assert judged("MathVision", question(gold, answer_type="expression"), response)[0] is is_correct


def test_mathvision_looks_at_the_value_of_the_gold_option():
    asked = question("D", {"A": "$1$", "D": r"$\frac{12}{7}$"})
    assert judged("MathVision", asked, r"\boxed{\frac{12}{7}}") == (True, r"\frac{12}{7}")
    assert judged("MathVision", asked, "1.714")[0]
    assert not judged("MathVision", asked, "1")[0]


def test_mathverse_compares_text():
    for gold, response, is_correct in (("D", "D", True), ("D", "140°", False), ("0.5m", "50 cm", False)):
        asked = question(gold, {"D": "140°"} if gold == "D" else {})
        assert judged("MathVerse-VO", asked, rf"\boxed{{{response}}}")[0] is is_correct


@pytest.mark.parametrize(
    ("kind", "gold", "response", "verdict"),
    [
        ("float", "2.0944", '{"solution": "..", "short answer": "2.094"}', (True, "2.094")),
        ("float", "2.0944", '{"short answer": "2.09"}', (False, "2.09")),
        ("float", "3.1416", '{"short answer": "1π"}', (True, "1π")),
        ("float", "3.1416", '{"short answer": "π"}', (False, "π")),
        ("float", "3.141", '{"short answer": 3.141}', (True, "3.141")),  # a number will do
        ("float", "3.141", '{"short answer": "3.141 rad"}', (True, "3.141 rad")),
        ("float", "3.141", r"\boxed{3.141}", (True, "3.141")),  # no JSON: our cut
        ("float", "2", '{"solution": "\\sin x", "short answer": "2"}', (True, "2")),  # broken by LaTeX
        ("letter", "A", '{"short answer": "A"}', (True, "A")),
        ("letter", "A", '{"short answer": "a"}', (False, "a")),
        ("letter", "A", '{"short answer": "(A) 40"}', (True, "(A) 40")),
        ("letter", "A", '{"short answer": "B, A"}', (False, "B, A")),  # the fourth character
        ("letter", "A", '{"short answer": "B A"}', (True, "B A")),
        ("letter", "A", '{"solution": "none"}', (False, "None")),
        ("text", "y = 4", '{"short answer": "y = 4"}', (True, "y = 4")),
        ("text", "y = 4", '{"short answer": "4"}', (False, "4")),
        ("text", "y = 4", '{"short answer": "it is y = 4.5"}', (True, "it is y = 4.5")),  # holds the gold answer
        ("text", "y = 4", '{"short answer": ""}', (False, None)),
        ("text", "Sep", '{"short answer": "sep"}', (False, "sep")),
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


@pytest.mark.parametrize(
    ("response", "extraction", "is_correct"),
    [
        (r"\boxed{BD}", None, True),
        ("B and D", None, True),  # our list in place of the judge model's
        ("USER: which? ASSISTANT: B, D", None, True),
        ("anything", "['b', 'd']", True),
        ("anything", "D, B", True),
        ("anything", "['b', 'd', 'd']", False),  # as often
        ("B, D", "ZZZZZ", False),  # what the judge model writes where it finds nothing
    ],
)
def test_logicvista(response, extraction, is_correct):
    asked = question("B, D", answer_type="letters")
    assert BENCHMARKS["LogicVista"](rules="official").grade(asked, response, extraction).is_correct is is_correct


def test_logicvista_golds_that_are_no_letter_can_be_reached():
    asked = question("3", answer_type="text")
    assert judged("LogicVista", asked, r"\boxed{3}") == (True, "3")
    assert BENCHMARKS["LogicVista"](rules="official").grade(asked, "", "3").is_correct


# ---- MathVista, where the extraction is given


@pytest.mark.parametrize(
    ("asked", "extraction", "is_correct", "answer"),
    [
        # Not cut again to "determined": the whole is ten edits from A and nine from B.
        (question("A", {"A": "determined", "B": "Cannot be known"}), "Cannot be determined", False, None),
        (question("B", ANIMALS), " wolf ", True, "wolf"),
        (question("B", ANIMALS), "", False, None),
        (question("14", {}, "integer", has_precision=False), "14.9", True, "14"),
        (question("14", {}, "integer", has_precision=False), "14 g", False, None),
        (question("1.4", {}, "float", 1, has_precision=True), "1.449", True, "1.4"),
    ],
)
def test_mathvista_extractions(asked, extraction, is_correct, answer):
    grade = BENCHMARKS["MathVista"](rules="official").grade(
        asked, "The response is not looked at: \\boxed{A}", extraction
    )
    assert (grade.is_correct, grade.status) == (is_correct, "extraction")
    assert (grade.extracted_answer is None) == (answer is None)
    assert not BENCHMARKS["MathVista"]().grade(asked, "", extraction).is_correct  # ours looks at the response alone


def test_an_extraction_that_is_no_list_is_wrong_and_ends_nothing():
    asked = BenchmarkQuestion("LogicVista", "1", "?", (), ("A, B",), {}, "letters")
    logicvista = BENCHMARKS["LogicVista"](rules="official")
    assert not logicvista.grade_extraction(asked, "A and B", "[A, B]").is_correct
    assert logicvista.grade_extraction(asked, "A and B", "['A', 'B']").is_correct


def test_vlmevalkit_reads_a_gold_that_is_no_integer():
    asked = BenchmarkQuestion("MathVista", "1", "?", (), ("14.0",), {}, "integer")
    assert not BENCHMARKS["MathVista"](rules="vlmevalkit").grade(asked, "14").is_correct
