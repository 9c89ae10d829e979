"""Verdicts of Math-Verify's own tests, and where ours is the opposite."""

import pytest
from math_verify_pairs import DIFFERENT, EQUAL, OTHERWISE

from datamodules.answers.compare import answers_equal


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_equal(answer, gold):
    assert answers_equal(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_different(answer, gold):
    assert not answers_equal(answer, gold)


@pytest.mark.parametrize(("answer", "gold", "verdict", "reason"), OTHERWISE)
def test_otherwise(answer, gold, verdict, reason):
    assert answers_equal(answer, gold) is not verdict, f"no longer otherwise: {reason}"
