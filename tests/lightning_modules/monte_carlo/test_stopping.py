import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from lightning_modules.monte_carlo.stopping import Confidence, stops_at

OUTCOMES = st.lists(st.booleans(), max_size=16)


@given(OUTCOMES)
def test_the_first_success_is_the_last_one_that_counts(outcomes):
    found = stops_at(outcomes, 16, "first_success", Confidence())
    if True in outcomes:
        assert found == outcomes.index(True) + 1
    else:
        assert found == (16 if len(outcomes) == 16 else None)


@given(OUTCOMES, OUTCOMES)
def test_what_is_drawn_beyond_does_not_count(outcomes, more):
    for rule, confidence in (("first_success", Confidence()), ("confident", Confidence(0.3, 0.9, 0.4))):
        found = stops_at(outcomes, 16, rule, confidence)
        if found is not None:
            assert stops_at(outcomes + more, 16, rule, confidence) == found


@pytest.mark.parametrize("known", [0, 3, 15, 16])
def test_all_waits_for_all(known):
    assert stops_at([True] * known, 16, "all", Confidence()) == (16 if known == 16 else None)


def test_a_threshold_by_hand():
    """Beta(1, 1 + n) has the mass 1 - 0.5 ** (n + 1) below a half: 0.9375 at n = 3, 0.96875 at n = 4."""
    for same in (False, True):
        assert stops_at([same] * 3, 16, "confident", Confidence(0.5, 0.95)) is None
        assert stops_at([same] * 4, 16, "confident", Confidence(0.5, 0.95)) == 4


@given(st.integers(0, 16), st.integers(0, 16))
def test_enough_by_the_posterior_of_scipy(right, wrong):
    posterior = beta(1 + right, 1 + wrong)
    low, high = posterior.ppf(0.05), posterior.ppf(0.95)
    assert Confidence(None, 0.9, 0.3).is_enough(right, right + wrong) == (high - low <= 0.3)
    is_sure = posterior.cdf(0.2) >= 0.9 or posterior.sf(0.2) >= 0.9
    assert Confidence(0.2, 0.9).is_enough(right, right + wrong) == is_sure


def test_counts_of_stopped_steps_estimate_the_rate_without_bias():
    """Over all ways that eight draws can fall: the mean of right - n p is 0, though the mean of right / n is not p."""
    for rule, confidence in (("first_success", Confidence()), ("confident", Confidence(0.4, 0.8))):
        for rate in (0.2, 0.5):
            drift = share = 0.0
            for number in range(2**8):
                outcomes = [bool(number >> place & 1) for place in range(8)]
                probability = 1.0
                for each in outcomes:
                    probability *= rate if each else 1 - rate
                total = stops_at(outcomes, 8, rule, confidence)
                right = sum(outcomes[:total])
                drift += probability * (right - total * rate)
                share += probability * right / total
            assert abs(drift) < 1e-12
            if rule == "first_success":
                assert share > rate + 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": None}, "needs a threshold or a width"),
        ({"threshold": 0.0}, "first_success"),
        ({"probability": 0.5}, "probability"),
        ({"width": 1.0}, "width"),
    ],
)
def test_settings_without_meaning(settings, message):
    with pytest.raises(ValueError, match=message):
        Confidence(**settings)
