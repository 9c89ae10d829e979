"""Weights of single steps against the same steps repeated."""

import math

import pytest
import torch

from lightning_modules.objectives.step_loss import LossOptions, StepLoss

LOGITS = torch.randn(2, 3, 2, generator=torch.manual_seed(0), dtype=torch.float64)
MC = torch.tensor([[1.0, 0.0, math.nan], [0.5, 0.25, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("objective", ["value", "soft", "regression", "beta_binomial"])
@pytest.mark.parametrize("averaging", ["step", "sample"])
def test_a_step_of_weight_two_counts_as_two_steps(objective, averaging):
    loss = StepLoss(objective, 0.0, LossOptions(averaging=averaging))
    weights = torch.tensor([[2.0, 1.0, 1.0], [1.0, 0.0, 2.0]])
    found = loss.of_solutions(LOGITS, MC, step_weights=weights)
    order = ([0, 0, 1, 2], [0, 2, 2, 2])  # repeated, and left out
    repeated = [torch.stack([values[row, places] for row, places in enumerate(order)]) for values in (LOGITS, MC)]
    repeated[1][1, 3] = math.nan  # as many steps in both rows
    expected = loss.of_solutions(*repeated)
    assert found.total.tolist() == pytest.approx(expected.total.tolist())
    assert found.weight.tolist() == pytest.approx(expected.weight.tolist())
