"""Every combination of objective and options, against the definition written out for one step at a time."""

import math
from itertools import product

import pytest
import torch

from lightning_modules.objectives.step_loss import LossOptions, StepLoss

NAN = math.nan
THRESHOLD = 0.25
# Rows of (mc, continuations): with unknown scores within, at the beginning and alone, errors early, late and never.
ROWS = [
    [(1.0, 16), (0.5, 8), (0.5, 4), (0.25, 16), (0.75, 16)],
    [(NAN, -1), (0.0, 4), (NAN, -1), (1.0, 2), (1.0, -1)],
    [(0.75, 8), (NAN, -1), (0.75, 8), (0.3125, 16), (NAN, -1)],
    [(NAN, -1)] * 5,
    [(0.125, 8), (NAN, -1), (NAN, -1), (NAN, -1), (NAN, -1)],
]
ACCURACY = [0.5, 0.5, NAN, 0.5, 0.125]
VALUES = {"advantage": 3}
LOGITS = {k: 2 * torch.randn(5, 5, k, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (2, 3)}


def target_of(objective, mc, before):
    """A distribution over the classes, or None."""
    if math.isnan(mc):
        return None
    if objective in ("soft", "regression"):
        return [mc, 1 - mc]
    if objective == "advantage":
        if math.isnan(before):
            return None
        return [float(mc > before), float(mc == before), float(mc < before)]
    return [float(mc > THRESHOLD), float(mc <= THRESHOLD)]


def literal_loss(objective, options):
    classes = VALUES.get(objective, 2)
    class_weights = options.class_weights or [1.0] * classes
    means, every_loss, every_weight = [], 0.0, 0.0
    for number, row in enumerate(ROWS):
        row_loss, row_weight, before, stopped = 0.0, 0.0, ACCURACY[number], False
        for step, (mc, continuations) in enumerate(row):
            target = None if options.early_stop and stopped else target_of(objective, mc, before)
            stopped = stopped or mc <= THRESHOLD
            before = mc
            if target is None:
                continue
            exponentials = [math.exp(value) for value in LOGITS[classes][number, step].tolist()]
            chances = [value / sum(exponentials) for value in exponentials]
            repeats = max(1, continuations) if options.binomial_weight else 1
            weight = repeats * sum(t * w for t, w in zip(target, class_weights, strict=True))
            if objective == "regression":
                loss = weight * (chances[0] - mc) ** 2
            else:
                terms = zip(target, class_weights, chances, strict=True)
                loss = -repeats * sum(t * w * math.log(chance) for t, w, chance in terms)
            # The mass that would have to be moved from one class to another.
            missing = sum(max(0.0, t - chance) for t, chance in zip(target, chances, strict=True))
            row_loss += loss * missing**options.focal_gamma
            row_weight += weight
        every_loss += row_loss
        every_weight += row_weight
        if row_weight:
            means.append(row_loss / row_weight)
    return every_loss / every_weight if options.averaging == "step" else sum(means) / len(means)


def combinations():
    weights = {2: [None, [1.0, 9.0], [0.5, 0.0]], 3: [None, [1.0, 0.25, 9.0], [0.0, 1.0, 2.0]]}
    for objective in ("value", "outcome", "advantage", "soft", "regression"):
        choices = product(
            [False] if objective == "outcome" else [False, True],
            weights[VALUES.get(objective, 2)],
            [0.0] if objective == "regression" else [0.0, 1.0, 2.5],
            ["step", "sample"],
            [False, True] if objective == "soft" else [False],
        )
        for early_stop, class_weights, gamma, averaging, binomial in choices:
            yield objective, LossOptions(early_stop, class_weights, gamma, averaging, binomial)


@pytest.mark.parametrize("objective", ["value", "outcome", "advantage", "soft", "regression"])
def test_every_combination_of_options(objective):
    mc, continuations = (torch.tensor([[step[i] for step in row] for row in ROWS]) for i in (0, 1))
    found, expected = [], []
    for options in (options for name, options in combinations() if name == objective):
        loss = StepLoss(objective, THRESHOLD, options)(
            LOGITS[VALUES.get(objective, 2)],
            mc.double(),
            question_accuracy=torch.tensor(ACCURACY).double(),
            num_mc_total=continuations,
        )
        found.append(loss.mean.item())
        expected.append(literal_loss(objective, options))
    assert len(found) == {"value": 36, "outcome": 18, "advantage": 36, "soft": 72, "regression": 12}[objective]
    assert found == pytest.approx(expected, rel=1e-9)
    # Options do something; only with a weight of 0 for wrong steps may two of them amount to the same.
    assert len({round(value, 9) for value in expected}) > 0.9 * len(expected)
