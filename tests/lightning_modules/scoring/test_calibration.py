"""Calibrations against brute force: every temperature of a grid, every block of neighbours."""

import math
import random

import pytest
import torch

from lightning_modules.metrics.step_threshold import OneLabelError
from lightning_modules.scoring.calibration import Calibration, fit_calibration

VALUE = (1.0, 0.0)


def steps(seed, count=200, sharpness=3.0):
    """Scores that are too sure of themselves: the margin is `sharpness` times that of the labels' probability."""
    rng = random.Random(seed)
    margins = [rng.gauss(0, 1) for _ in range(count)]
    scores = [1 / (1 + math.exp(-sharpness * margin)) for margin in margins]
    return scores, [rng.random() < 1 / (1 + math.exp(-margin)) for margin in margins]


def log_loss(scores, labels, temperature):
    tempered = [1 / (1 + math.exp(-math.log(score / (1 - score)) / temperature)) for score in scores]
    return -sum(math.log(p if label else 1 - p) for p, label in zip(tempered, labels, strict=True)) / len(labels)


def test_the_temperature_against_a_grid():
    scores, labels = steps(0)
    fitted = fit_calibration(torch.tensor(scores, dtype=torch.float64), torch.tensor(labels), "temperature", "v")
    grid = [math.exp(exponent / 100) for exponent in range(-100, 301)]
    best = min(grid, key=lambda temperature: log_loss(scores, labels, temperature))
    assert fitted.temperature == pytest.approx(best, rel=0.011)
    assert log_loss(scores, labels, fitted.temperature) <= log_loss(scores, labels, best) + 1e-12
    assert 2 < fitted.temperature < 4.5  # that of the world is 3
    assert fitted.fitted_on == "v"


def min_max(labels):
    """The values of the best fit that does not fall: the largest least mean of blocks around each place."""
    count = len(labels)

    def mean(first, last):
        return sum(labels[first : last + 1]) / (last + 1 - first)

    return [
        max(min(mean(first, last) for last in range(place, count)) for first in range(place + 1))
        for place in range(count)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_isotonic_fit_against_all_blocks(seed):
    scores, labels = steps(seed, count=30)
    order = sorted(range(30), key=lambda index: scores[index])
    fitted = fit_calibration(torch.tensor(scores, dtype=torch.float64), torch.tensor(labels), "isotonic")
    expected = min_max([float(labels[index]) for index in order])
    found = fitted.of_scores(torch.tensor([scores[index] for index in order], dtype=torch.float64))
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_equal_scores_are_one_step():
    given = torch.tensor([0.25, 0.25, 0.25, 0.75, 0.75])
    fitted = fit_calibration(given, torch.tensor([True, False, False, True, True]), "isotonic")
    assert fitted.of_scores(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])).tolist() == pytest.approx(
        [1 / 3, 1 / 3, 2 / 3, 1.0, 1.0]
    )


def test_of_logits_by_hand():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[-1.0, 1.0], [5.0, 5.0]]])
    tempered = Calibration("temperature", temperature=2.0).of_logits(logits, VALUE)
    expected = [[1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))], [1 / (1 + math.exp(1)), 0.5]]
    assert tempered.shape == (2, 2)
    assert tempered.flatten().tolist() == pytest.approx([value for row in expected for value in row])
    isotonic = Calibration("isotonic", scores=[0.25, 0.75], values=[0.0, 1.0])
    assert isotonic.of_logits(logits, VALUE)[1].tolist() == pytest.approx([0.0, 0.5])


def test_of_scores_agrees_with_of_logits():
    logits = torch.randn(50, 2, generator=torch.manual_seed(0), dtype=torch.float64)
    scores = logits.softmax(-1)[:, 0]
    calibration = Calibration("temperature", temperature=0.3)
    assert calibration.of_scores(scores).tolist() == pytest.approx(calibration.of_logits(logits, VALUE).tolist())
    # The ends are finite and stay in place.
    assert calibration.of_scores(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
@pytest.mark.parametrize("labels", [[], [True, True], [False, False]])
def test_one_label_is_refused(method, labels):
    with pytest.raises(OneLabelError, match="a calibration needs right and wrong steps"):
        fit_calibration(torch.full((len(labels),), 0.5), torch.tensor(labels, dtype=torch.bool), method)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "platt"}, "calibration.method must be one of"),
        ({"method": "temperature", "temperature": 0.0}, "calibration.temperature must be above 0"),
        ({"method": "isotonic"}, "calibration.scores must ascend"),
        ({"method": "isotonic", "scores": [0.5, 0.5], "values": [0.0, 1.0]}, "calibration.scores must ascend"),
        ({"method": "isotonic", "scores": [0.1, 0.5], "values": [0.6, 0.5]}, "must not fall"),
        ({"method": "isotonic", "scores": [0.1, 0.5], "values": [0.6, 1.5]}, r"must be in \[0, 1\]"),
    ],
)
def test_what_is_no_calibration(arguments, message):
    with pytest.raises(ValueError, match=message):
        Calibration(**arguments)
