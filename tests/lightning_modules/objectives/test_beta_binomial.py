"""The beta-binomial objective against scipy's distributions."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, betabinom

from lightning_modules.objectives.beta_binomial import beta_binomial_loss, concentration, uncertainty
from lightning_modules.objectives.step_loss import LossOptions, StepLoss

ONES = torch.ones(2, dtype=torch.float64)
LOGITS = 3 * torch.randn(4, 3, 2, generator=torch.manual_seed(0), dtype=torch.float64)


def parameters(logits):
    """Alpha and beta as the module's docstring says: mean by softmax, concentration by softplus of the log-sum."""
    first, second = logits.tolist()
    sure = math.log1p(math.exp(first) + math.exp(second))
    mean = 1 / (1 + math.exp(second - first))
    return sure * mean, sure * (1 - mean)


def loss_of(logits, mc, continuations, class_weights=ONES):
    targets = torch.stack([mc, 1 - mc], dim=-1)
    return beta_binomial_loss(logits, targets, class_weights, continuations)


@pytest.mark.parametrize("n", [1, 2, 8, 16])
def test_the_likelihood_of_every_count(n):
    total = torch.zeros(4, 3, dtype=torch.float64)
    for k in range(n + 1):
        found = loss_of(LOGITS, torch.full((4, 3), k / n, dtype=torch.float64), torch.full((4, 3), n))
        for row in range(4):
            for step in range(3):
                expected = -betabinom.logpmf(k, n, *parameters(LOGITS[row, step]))
                assert found[row, step].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        total += (-found).exp()
    assert total.flatten().tolist() == pytest.approx([1.0] * 12, abs=1e-4)


def test_one_continuation_is_a_cross_entropy_and_so_is_an_unknown_number():
    for n in (1, 0, -1):
        mc = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
        found = loss_of(LOGITS[:1], mc, torch.full((1, 3), n))
        logs = LOGITS[0].log_softmax(-1)
        assert found[0].tolist() == pytest.approx(
            [-logs[0, 0].item(), -logs[1, 1].item(), -logs[2, 0].item()], abs=1e-4
        )
    share = loss_of(LOGITS[:1, :1], torch.tensor([[0.25]], dtype=torch.float64), torch.tensor([[-1]]))
    logs = LOGITS[0, 0].log_softmax(-1)
    assert share.item() == pytest.approx(-0.25 * logs[0].item() - 0.75 * logs[1].item())


def test_class_weights_are_those_of_the_target():
    mc, n = torch.tensor([[0.25]], dtype=torch.float64), torch.tensor([[8]])
    weighted = loss_of(LOGITS[:1, :1], mc, n, torch.tensor([1.0, 9.0], dtype=torch.float64))
    assert weighted.item() == pytest.approx(7 * loss_of(LOGITS[:1, :1], mc, n).item())


def test_gradients_and_extreme_logits():
    given = LOGITS.clone().requires_grad_()
    mc = torch.tensor([[0.5, 0.0, 1.0]] * 4, dtype=torch.float64)
    n = torch.tensor([[8, 16, 1]] * 4)
    assert torch.autograd.gradcheck(lambda logits: loss_of(logits, mc, n), given, atol=1e-4)
    extreme = torch.tensor([[[60.0, -60.0], [-60.0, 60.0], [-90.0, -80.0], [80.0, 80.0]]], requires_grad=True)
    values = loss_of(extreme, torch.tensor([[0.0, 1.0, 0.5, 0.5]]), torch.full((1, 4), 8), torch.ones(2))
    values.sum().backward()
    assert values.isfinite().all()
    assert extreme.grad.isfinite().all()


def test_the_uncertainty_is_the_deviation_of_the_beta_distribution():
    expected = [beta.std(*parameters(logits)) for logits in LOGITS.reshape(-1, 2)]
    assert uncertainty(LOGITS).flatten().tolist() == pytest.approx(expected)
    # It falls with the concentration, at the same mean.
    sure, unsure = torch.tensor([5.0, 5.0]), torch.tensor([-5.0, -5.0])
    assert uncertainty(sure) < uncertainty(unsure) <= 0.5


@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_it_learns_how_far_success_rates_spread(spread):
    """Two parameters fitted to counts drawn at known mean and concentration find them."""
    generator = np.random.default_rng(0)
    rates = generator.beta(0.7 * spread, 0.3 * spread, 4000)
    counts = torch.tensor(generator.binomial(8, rates))[None]
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")
    n = torch.full_like(counts, 8)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(logits.expand(1, 4000, 2), counts / 8, n).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert logits.softmax(-1)[0].item() == pytest.approx(0.7, abs=0.02)
    assert concentration(logits).item() == pytest.approx(spread, rel=0.15)


def test_the_step_loss_hands_on_the_counts():
    mc = torch.tensor([[0.5, math.nan, 1.0]], dtype=torch.float64)
    n = torch.tensor([[8, -1, 4]])
    loss = StepLoss("beta_binomial", 0.0, LossOptions(averaging="sample"))
    found = loss.of_solutions(LOGITS[:1], mc, num_mc_total=n)
    terms = [-betabinom.logpmf(k, n, *parameters(LOGITS[0, step])) for step, k, n in ((0, 4, 8), (2, 4, 4))]
    assert (found.total.item(), found.weight.item()) == pytest.approx((sum(terms) / 2, 1), rel=1e-4)
    unknown = loss.of_solutions(LOGITS[:1], mc)
    assert unknown.mean.item() == pytest.approx(
        StepLoss("soft", 0.0, LossOptions(averaging="sample"))(LOGITS[:1], mc).mean.item()
    )


def test_counts_that_were_stopped_at_the_first_success_are_targets():
    assert StepLoss("beta_binomial", 0.0).needs_all_continuations is None
    assert "search: linear" in StepLoss("beta_binomial", 0.0).needs_measured_scores
