import numpy as np
import pytest

from lightning_modules.metrics.bootstrap import percentile_interval, resampled_means


def test_equals_drawing_rows_one_resample_at_a_time():
    units = np.random.default_rng(1).random((7, 3))
    means = resampled_means(units, 50, np.random.default_rng(5))
    drawn = np.random.default_rng(5).integers(0, 7, size=(50, 7))
    assert means == pytest.approx(np.array([units[rows].mean(axis=0) for rows in drawn]))


def test_columns_share_their_draws():
    units = np.random.default_rng(2).random((20, 1))
    means = resampled_means(np.hstack([units, units, 1 - units]), 100, np.random.default_rng(0))
    assert (means[:, 0] == means[:, 1]).all()
    assert means[:, 0] + means[:, 2] == pytest.approx(1)


def test_interval_of_a_proportion_is_close_to_theory():
    units = np.repeat([1.0, 0.0], [300, 700])[:, None]
    (low,), (high,) = percentile_interval(resampled_means(units, 4000, np.random.default_rng(0)))
    error = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert low == pytest.approx(0.3 - error, abs=0.003)
    assert high == pytest.approx(0.3 + error, abs=0.003)


def test_percentiles_of_known_samples():
    low, high = percentile_interval(np.arange(201.0)[:, None] / 200, confidence=0.9)
    assert (low[0], high[0]) == pytest.approx((0.05, 0.95))


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="got 0 and 10"):
        resampled_means(np.zeros((0, 2)), 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="got 2 and 0"):
        resampled_means(np.zeros((2, 2)), 0, np.random.default_rng(0))
