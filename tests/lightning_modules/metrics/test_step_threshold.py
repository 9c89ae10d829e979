import math
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property_examples import examples
from sklearn.metrics import f1_score

from lightning_modules.metrics.step_threshold import StepThreshold, best_threshold

SCORES = st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
STEPS = st.builds(
    lambda right, wrong, rest: [(right, True), (wrong, False), *rest],
    SCORES,
    SCORES,
    st.lists(st.tuples(SCORES, st.booleans()), max_size=10),
)
SLOW = settings(deadline=None, max_examples=examples(50))


def macro_f1(steps, threshold):
    truth = [label for _, label in steps]
    judged = [score >= threshold for score, _ in steps]
    return f1_score(truth, judged, labels=[False, True], average="macro", zero_division=0)


def chosen(steps):
    return best_threshold(
        torch.tensor([score for score, _ in steps], dtype=torch.float64), torch.tensor([label for _, label in steps])
    )


def test_worked_example():
    # Cut between .4 and .6: all four right.
    assert chosen([(0.9, True), (0.6, True), (0.4, False), (0.1, False)]) == (pytest.approx(0.5), 1.0)
    # Cut at .85: correct F1 2/3, wrong F1 4/5; at .25: 4/5 and 2/3. They are equally good, and .25 is nearer to .5.
    threshold, value = chosen([(0.9, True), (0.8, False), (0.3, True), (0.2, False)])
    assert value == pytest.approx((2 * 1 / (2 + 1) + 2 * 2 / (4 + 1)) / 2)
    assert threshold == pytest.approx(0.25)


@SLOW
@given(STEPS)
@example([(1.0, False), (1.0, True)])
@example([(0.0, False), (math.nextafter(0.0, 1), True)])
@example([(0.5, False), (math.nextafter(0.5, 1), True)])
@example([(math.nextafter(1.0, 0), False), (1.0, True)])
@example([(math.nextafter(1.0, 0), False), (0.2, True)])
def test_no_threshold_is_better(steps):
    """Against all scores, all points between them, and both ends."""
    threshold, value = chosen(steps)
    assert 0 <= threshold <= 1
    assert macro_f1(steps, threshold) == pytest.approx(value, abs=1e-12)
    bounds = sorted({0.0, 1.0, *(score for score, _ in steps)})
    points = [*bounds, *((low + high) / 2 for low, high in pairwise(bounds))]
    assert max(macro_f1(steps, point) for point in points) == pytest.approx(value, abs=1e-12)


@SLOW
@given(STEPS.flatmap(lambda steps: st.tuples(st.just(steps), st.permutations(steps))))
def test_the_order_of_the_steps_does_not_matter(both):
    assert chosen(both[0]) == chosen(both[1])


@SLOW
@given(STEPS)
def test_another_range_of_scores(steps):
    """Scores stretched to [-1, 1] have a threshold that is stretched alike, up to the last bits."""
    steps = [(round(score, 6), label) for score, label in steps]
    threshold, value = chosen(steps)
    stretched = torch.tensor([2 * score - 1 for score, _ in steps], dtype=torch.float64)
    found = best_threshold(stretched, torch.tensor([label for _, label in steps]), (-1.0, 1.0))
    assert found == pytest.approx((2 * threshold - 1, value), abs=1e-9)
    with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
        best_threshold(stretched - 2.5, torch.ones(len(steps), dtype=torch.bool), (-1.0, 1.0))


def test_what_cannot_be_chosen_on():
    with pytest.raises(ValueError, match="all 2 are correct"):
        best_threshold(torch.tensor([0.1, 0.9]), torch.tensor([True, True]))
    with pytest.raises(ValueError, match="chosen on; there are none"):
        best_threshold(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    for score in (math.nan, -0.1, 1.5):
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            best_threshold(torch.tensor([0.5, score]), torch.tensor([True, False]))


def test_labels():
    assert StepThreshold(0.85).label == "fixed threshold 0.85"
    assert StepThreshold(0.4321, "validation", "v.jsonl").label == "validation threshold 0.4321, chosen on v.jsonl"
    with pytest.raises(ValueError, match="got 85"):
        StepThreshold(85)
    with pytest.raises(ValueError, match="got 'test'"):
        StepThreshold(0.5, "test")
