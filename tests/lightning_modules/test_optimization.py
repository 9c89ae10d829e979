import math
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.optimization import configure_warmup_cosine, parameter_groups, warmup_cosine_factor


class Fitted(LightningModule):
    """A matrix, a vector and a frozen matrix; keeps the learning rate of every step."""

    def __init__(self, optimizer=None):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.factory = optimizer
        self.rates = []

    def training_step(self, batch, batch_idx):
        self.rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        return self.frozen(self.layer(batch)).sum()

    def configure_optimizers(self):
        return configure_warmup_cosine(self, self.factory, learning_rate=0.5, weight_decay=0.2, warmup_share=0.25)


def fit(module, **options):
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False, **options}
    trainer = Trainer(enable_progress_bar=False, enable_model_summary=False, **settings)
    trainer.fit(module, DataLoader(torch.ones(6, 2)))
    return trainer


# 12 steps, 3 of them warm-up: 1/4, 2/4, 3/4 of the peak, then half a cosine over 9 steps.
FACTORS = [0.25, 0.5, 0.75, *(0.5 * (1 + math.cos(math.pi * k / 9)) for k in range(9))]


def test_factor_by_hand():
    assert [warmup_cosine_factor(step, 12, 0.25) for step in range(12)] == pytest.approx(FACTORS)
    assert warmup_cosine_factor(12, 12, 0.25) == pytest.approx(0.0)
    # No warm-up: the first step has the peak, the middle half of it.
    assert [warmup_cosine_factor(step, 4, 0.0) for step in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])
    # 5 % of 10 steps is half a step, which is rounded to none; of 30 it is 2.
    assert warmup_cosine_factor(0, 10, 0.05) == 1.0
    assert [warmup_cosine_factor(step, 30, 0.05) for step in (0, 1, 2)] == pytest.approx([1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize(("total", "share"), [(0, 0.05), (1, 0.05), (1, 0.9), (7, 0.3), (100, 0.05)])
def test_factor_stays_in_range(total, share):
    factors = [warmup_cosine_factor(step, total, share) for step in range(total + 3)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[total + 2] == pytest.approx(0.0) or total == 0
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_parameter_groups():
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Embedding(4, 2), nn.Linear(2, 2, bias=False))
    module[3].requires_grad_(False)
    decayed, plain = parameter_groups(module, 0.05)
    assert {id(p) for p in decayed["params"]} == {id(module[0].weight), id(module[2].weight)}
    assert {id(p) for p in plain["params"]} == {id(module[0].bias), id(module[1].weight), id(module[1].bias)}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)


def test_the_schedule_runs_per_step_over_the_whole_fit():
    module = Fitted()
    trainer = fit(module)
    assert [rates[0] for rates in module.rates] == pytest.approx([0.5 * factor for factor in FACTORS])
    assert all(first == second for first, second in module.rates)
    optimizer = trainer.optimizers[0]
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert [[p.shape for p in group["params"]] for group in optimizer.param_groups] == [[(2, 2)], [(2,)]]


def test_accumulation_makes_fewer_steps():
    """12 batches, two a step: 6 steps of which 2 warm up (a quarter of 6, rounded to the even number)."""
    module = Fitted()
    fit(module, accumulate_grad_batches=2)
    expected = [1 / 3, 2 / 3, *(0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4))]
    assert [rates[0] for rates in module.rates[::2]] == pytest.approx([0.5 * factor for factor in expected])


def test_another_optimizer():
    module = Fitted(partial(torch.optim.SGD, lr=99.0, momentum=0.5))
    optimizer = fit(module, max_epochs=1).optimizers[0]
    assert type(optimizer) is torch.optim.SGD
    assert [group["momentum"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert max(rates[0] for rates in module.rates) == pytest.approx(0.5)
