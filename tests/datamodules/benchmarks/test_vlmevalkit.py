"""VLMEvalKit's rules: verdicts worked out by hand from descriptions of its matchers."""

import math

import pytest

from datamodules.benchmarks import BENCHMARKS, BenchmarkQuestion
from datamodules.benchmarks.vlmevalkit import infer_option

OPTIONS = {"A": "a red fox", "B": "the grey wolf", "C": "none of these"}


def question(gold, options=None, answer_type="letter", precision=None, **metadata):
    golds = gold if isinstance(gold, tuple) else (gold,)
    return BenchmarkQuestion("b", "7", "q", (), golds, options or {}, answer_type, precision, metadata)


def judged(name, asked, response):
    grade = BENCHMARKS[name](rules="vlmevalkit").grade(asked, response)
    return grade.is_correct, grade.extracted_answer


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("It must be (B).", "B"),
        (r"Answer: \boxed{B}", "B"),  # braces become spaces
        ("Answer: {B}", "B"),
        ("B is what I would take for it", None),  # the first place is not among the last four words
        ("B is what I would take, so B", None),  # nor is it here
        ("A or B", None),
        ("The answer is B, I am quite sure about that", "B"),
        ("I think that the answer is a dog, as one may see", "A"),  # a small letter
        ("the grey wolf", "B"),
        ("the grey wolf and a red fox", None),
        ("the grey wolf " * 9, None),  # more than twice as long as the options
        ("I can't process this file.", "Z"),
        ("Z", "Z"),
        ("Failed to obtain answer via API. B", None),
    ],
)
def test_inferred_options(answer, letter):
    assert infer_option(answer, OPTIONS) == letter


@pytest.mark.parametrize("name", ["MMMU", "MathVista", "MathVision", "WeMath"])
def test_choices(name):
    asked = question("B", OPTIONS)
    assert judged(name, asked, "So (B)") == (True, "B")
    assert judged(name, asked, "So (A)") == (False, "A")
    # The response names two letters; our cut stands for what a judge model would say.
    assert judged(name, asked, "Not A.\nAnswer: \\boxed{B}") == (True, "B")
    assert judged(name, asked, "I can't process this file.") == (False, None)


@pytest.mark.parametrize(
    ("kind", "gold", "response", "is_correct"),
    [
        ("integer", "14", "14", True),
        ("integer", "14", r"So \boxed{14}", True),
        ("integer", "14", r"\boxed{14.0}", False),
        ("float", "1.4", r"\boxed{1.40}", True),
        ("float", "1.4", r"\boxed{1.44}", False),  # the precision is not used
        ("list", "[1, 2]", "[1, 2]", False),
    ],
)
def test_mathvista_free_form(kind, gold, response, is_correct):
    assert (
        judged("MathVista", question(gold, answer_type=kind, precision=1, has_precision=True), response)[0]
        is is_correct
    )


def test_mathvision():
    asked = question("B", {"A": "3", "B": "6"})
    assert judged("MathVision", asked, r"\boxed{6}") == (True, "B")  # the only option whose text occurs
    asked = question("0.5", answer_type="expression")
    for response, is_correct in ((r"\frac{1}{2}", True), ("0.5000001", True), ("0.501", False), ("0.5 cm", False)):
        assert judged("MathVision", asked, rf"\boxed{{{response}}}")[0] is is_correct


@pytest.mark.parametrize(
    ("gold", "response", "is_correct"),
    [
        ("1.06", "So it is 1.06", True),  # the option A, whose text occurs
        ("1.06", "So it is 1.07", False),
        ("1.06", "A", True),
        ("C", "C", False),  # the gold answer stays C, the options are A and B
        (("24/7", "3.429"), "24/7", False),  # the text of the whole list does not occur
    ],
)
def test_mmmu_open_questions(gold, response, is_correct):
    assert judged("MMMU", question(gold, answer_type="expression"), response)[0] is is_correct


@pytest.mark.parametrize(
    ("kind", "gold", "response", "verdict"),
    [
        ("float", "2.0944", '{"solution": "..", "short answer": "2.094"}', (True, "2.094")),
        ("float", "2.0944", '{"short answer": "2.09"}', (False, "2.09")),
        ("float", "3.1416", '{"short answer": "1π"}', (True, repr(math.pi))),
        ("float", "3.141", '{"short answer": "3.141 rad"}', (True, "3.141")),
        ("float", "3.141", r"\boxed{3.141}", (True, "3.141")),
        ("letter", "A", r"\boxed{A}", (True, "A")),
        ("letter", "A", '{"short answer": "a"}', (True, "A")),
        ("letter", "B", "b, or a", (True, None)),  # unread, but among the first three characters
        ("text", "Sep", '{"short answer": "s"}', (True, "s")),  # a part of the gold answer
        ("text", "y = 4", '{"short answer": "4"}', (True, "4")),
        ("text", "Sep", "", (True, None)),  # even an empty one
        ("text", "Sep", "It is Sep", (False, "It is Sep")),  # compared as a whole
    ],
)
def test_dynamath(kind, gold, response, verdict):
    assert judged("DynaMath", question(gold, answer_type=kind), response) == verdict


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


@pytest.mark.parametrize("name", ["MathVerse-VO", "GSM8K", "MATH-500", "GPQA-Diamond"])
def test_rules_that_are_the_official_ones(name):
    assert not BENCHMARKS[name].vlmevalkit_differences
    asked = question("D", {"D": "140°"})
    verdicts = [BENCHMARKS[name](rules=rules).grade(asked, r"\boxed{D}") for rules in ("official", "vlmevalkit")]
    assert verdicts[0] == verdicts[1]
