import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.monte_carlo.search import first_wrong_step, steps_to_score, violations


def run(search, truth, early_stop=False, last_is_known=True):
    """Ask until nothing is asked for; the truth says of each step, from 1, whether it is right."""
    steps = len(truth)
    known = {steps: truth[-1]} if last_is_known else {}
    asked = []
    while wanted := steps_to_score(search, early_stop, known, steps, steps - last_is_known):
        asked += wanted
        known |= {step: truth[step - 1] for step in wanted}
    assert len(asked) == len(set(asked)), "a step was asked for twice"
    return known, asked


@given(st.integers(1, 20), st.integers(0, 20), st.booleans())
def test_binary_search_finds_the_first_wrong_step(steps, right, last_is_known):
    right = min(right, steps)
    known, asked = run("binary", [True] * right + [False] * (steps - right), last_is_known=last_is_known)
    assert first_wrong_step(known, steps) == right + 1
    assert len(asked) <= math.ceil(math.log2(steps + 1))
    if right == steps and last_is_known:
        assert asked == []  # a right solution has no wrong step


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_binary_search_ends_where_the_assumption_fails(truth):
    known, _ = run("binary", truth)
    wrong = first_wrong_step(known, len(truth))
    assert wrong == len(truth) + 1 or not truth[wrong - 1]
    assert wrong == 1 or truth[wrong - 2]


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.booleans())
def test_linear_search_asks_for_all_or_up_to_the_first_wrong_step(truth, last_is_known):
    continued = len(truth) - last_is_known
    assert run("linear", truth, last_is_known=last_is_known)[1] == list(range(1, continued + 1))
    until = truth.index(False) + 1 if False in truth else len(truth)
    assert run("linear", truth, True, last_is_known)[1] == list(range(1, min(until, continued) + 1))


@pytest.mark.parametrize(
    ("scores", "count"), [("", 0), ("+++", 0), ("++-", 0), ("+-+", 1), ("-++", 2), ("-+-+", 2), ("---", 0)]
)
def test_violations(scores, count):
    assert violations({step: score == "+" for step, score in enumerate(scores, start=1)}) == count
