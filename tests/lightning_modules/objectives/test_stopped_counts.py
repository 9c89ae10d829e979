"""Which targets can be made of steps that were continued only up to their first success."""

import itertools

import pytest
import torch

from lightning_modules.objectives.step_loss import LossOptions, StepLoss


@pytest.mark.parametrize(
    ("objective", "threshold", "options", "problem"),
    [
        ("value", 0.0, {}, None),
        ("value", 0.0, {"early_stop": True}, None),
        ("value", 0.25, {}, "threshold is 0.25"),
        ("outcome", 0.0, {}, None),
        ("outcome", 0.5, {}, "threshold is 0.5"),
        ("soft", 0.0, {}, "set loss.binomial_weight"),
        ("soft", 0.0, {"binomial_weight": True}, None),
        ("soft", 0.25, {"binomial_weight": True, "early_stop": True}, "threshold is 0.25"),
        ("regression", 0.0, {}, "learns the score itself; take soft"),
        ("advantage", 0.0, {}, "compares scores of steps"),
    ],
)
def test_what_needs_all_continuations(objective, threshold, options, problem):
    found = StepLoss(objective, threshold, LossOptions(**options)).needs_all_continuations
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize(
    ("objective", "threshold", "problem"),
    [("value", 0.0, ""), ("outcome", 0.0, ""), ("value", 0.5, "threshold is 0.5")]
    + [(name, 0.0, "learns more than labels") for name in ("soft", "regression", "advantage")],
)
def test_what_needs_measured_scores(objective, threshold, problem):
    found = StepLoss(objective, threshold, LossOptions(binomial_weight=objective == "soft")).needs_measured_scores
    assert (found is None) == (not problem)
    assert problem in (found or "")


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_the_binomial_weight_learns_the_rate_from_stopped_counts(rate):
    """Over all ways that 6 draws can fall: with counts up to the first success, the loss is least at the true rate.

    Without the weights it is least at a larger one.
    """
    counts = torch.zeros(2, 6, dtype=torch.double)  # probability of each (right, total)
    for outcomes in itertools.product([False, True], repeat=6):
        probability = rate ** sum(outcomes) * (1 - rate) ** (6 - sum(outcomes))
        total = outcomes.index(True) + 1 if True in outcomes else 6
        counts[int(any(outcomes)), total - 1] += probability
    right, total = counts.nonzero(as_tuple=True)
    mc, total = right / (total + 1), total + 1
    probability = counts[counts > 0]
    least = {}
    for weight in (True, False):
        loss = StepLoss("soft", 0.0, LossOptions(binomial_weight=weight))
        rates = torch.arange(1, 100) / 100
        values = []
        for each in rates:
            logits = torch.tensor([each.logit(), 0.0]).expand(len(mc), 1, 2)
            of_each = loss.of_solutions(logits, mc[:, None], num_mc_total=total[:, None])
            values.append((probability * of_each.total).sum())
        least[weight] = float(rates[torch.stack(values).argmin()])
    assert least[True] == pytest.approx(rate, abs=0.005)
    assert least[False] > rate + 0.05
