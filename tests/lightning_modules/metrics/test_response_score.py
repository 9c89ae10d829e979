import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.metrics.response_score import AGGREGATIONS, aggregate_step_scores, aggregations_for

UNIT = st.floats(0, 1, allow_subnormal=False)


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", 0.5), ("min", 0.25), ("max", 0.75), ("last", 0.25), ("product", 0.09375)]
)
def test_worked_example(how, expected):
    assert aggregate_step_scores([0.75, 0.5, 0.25], how) == expected
    assert aggregate_step_scores(torch.tensor([0.75, 0.5, 0.25]), how) == expected


@given(st.lists(UNIT, min_size=1, max_size=12))
def test_against_exact_arithmetic(scores):
    exact = [Fraction(score) for score in scores]
    assert aggregate_step_scores(scores, "mean") == pytest.approx(float(sum(exact) / len(exact)), abs=1e-15)
    assert aggregate_step_scores(scores, "product") == pytest.approx(float(math.prod(exact)), rel=1e-12, abs=1e-300)
    assert aggregate_step_scores(scores, "min") == sorted(scores)[0]
    assert aggregate_step_scores(scores, "max") == sorted(scores)[-1]
    assert aggregate_step_scores(scores, "last") == scores[-1]


@given(st.lists(UNIT, min_size=2, max_size=12), st.integers(0, 1000))
def test_order_does_not_matter_to_the_last_bit(scores, seed):
    shuffled = random.Random(seed).sample(scores, len(scores))
    for how in set(AGGREGATIONS) - {"last"}:
        assert aggregate_step_scores(scores, how) == aggregate_step_scores(shuffled, how)


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(how, bad):
    with pytest.raises(ValueError, match="step 1 has the score"):
        aggregate_step_scores([0.5, bad, 0.5], how)


def test_no_step_and_unknown_aggregation_are_refused():
    with pytest.raises(ValueError, match="without steps"):
        aggregate_step_scores([], "mean")
    with pytest.raises(ValueError, match=r"'median'; choose from mean, min"):
        aggregate_step_scores([0.5], "median")


def test_negative_scores_have_no_product():
    scores = [-0.5, 0.25, -0.75]
    assert [aggregate_step_scores(scores, how) for how in ("mean", "min", "max", "last")] == [
        pytest.approx(-1 / 3),
        -0.75,
        0.25,
        -0.75,
    ]
    with pytest.raises(ValueError, match="the product of scores needs scores that are not negative"):
        aggregate_step_scores(scores, "product")
    assert aggregations_for((0.0, 1.0)) == AGGREGATIONS
    assert aggregations_for((-1.0, 1.0)) == ("mean", "min", "max", "last")
