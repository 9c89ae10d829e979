"""The verdicts that people give on hand-written responses, and those of the code that grades them."""

from collections import Counter

import pytest
from verdict_cases import CASES, grade


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
