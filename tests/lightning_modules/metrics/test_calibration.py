from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_modules.metrics.calibration import NUM_BINS, calibration_bins, expected_calibration_error

STEPS = st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), st.booleans()), min_size=1, max_size=40)


def tensors(steps):
    scores = torch.tensor([score for score, _ in steps], dtype=torch.float64)
    return scores, torch.tensor([label for _, label in steps])


def test_worked_example():
    # Bins of a fifteenth: .02 and .03 share one (mean .025, half correct), .5 is alone, 1.0 is with .98.
    steps = [(0.02, True), (0.03, False), (0.5, True), (0.98, True), (1.0, False)]
    expected = 2 / 5 * abs(0.025 - 0.5) + 1 / 5 * abs(0.5 - 1) + 2 / 5 * abs(0.99 - 0.5)
    assert expected_calibration_error(*tensors(steps)) == pytest.approx(expected)
    bins = calibration_bins(*tensors(steps))
    assert [entry.steps for entry in bins] == [2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2]
    assert (bins[0].mean_score, bins[0].correct_share) == pytest.approx((0.025, 0.5))
    assert (bins[1].mean_score, bins[1].correct_share) == (None, None)
    assert (bins[14].low, bins[14].high) == pytest.approx((14 / 15, 1.0))


def test_scores_that_are_right_as_often_as_they_say_have_no_error():
    steps = [(0.75, True)] * 3 + [(0.75, False)]
    assert expected_calibration_error(*tensors(steps)) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(*tensors([(0.0, False), (1.0, True)])) == pytest.approx(0, abs=1e-12)


@settings(deadline=None)
@given(STEPS)
@example([(k / 15, k % 2 == 0) for k in range(16)])
def test_against_brute_force(steps):
    edges = torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64).tolist()
    total = 0.0
    counts = []
    for place, (low, high) in enumerate(pairwise(edges)):
        inside = [(s, y) for s, y in steps if low <= s < high or (place == NUM_BINS - 1 and s == 1)]
        counts.append(len(inside))
        if inside:
            mean, share = sum(s for s, _ in inside) / len(inside), sum(y for _, y in inside) / len(inside)
            total += len(inside) / len(steps) * abs(mean - share)
    assert expected_calibration_error(*tensors(steps)) == pytest.approx(total, abs=1e-9)
    bins = calibration_bins(*tensors(steps))
    assert [entry.steps for entry in bins] == counts
    from_bins = sum(e.steps / len(steps) * abs(e.mean_score - e.correct_share) for e in bins if e.steps)
    assert from_bins == pytest.approx(total, abs=1e-9)
