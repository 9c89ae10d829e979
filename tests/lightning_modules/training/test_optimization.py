import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer as HuggingFaceTrainer
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from lightning_modules.model.backbone import BackboneOptions, load_backbone
from lightning_modules.training.optimization import (
    can_be_fused,
    configure_warmup_cosine,
    parameter_groups,
    warmup_cosine_factor,
)


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
        return configure_warmup_cosine(self, self.factory, learning_rate=0.5, weight_decay=0.2, warmup_ratio=0.25)


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


class Scaled(nn.Module):
    """What families have beside layers: scales, class tokens, position embeddings, a norm with a matrix."""

    def __init__(self):
        super().__init__()
        self.lambda_1 = nn.Parameter(torch.ones(4))
        self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
        self.position_embeddings = nn.Parameter(torch.ones(1, 3, 4))
        self.in_proj_bias = nn.Parameter(torch.ones(2, 4))
        self.to_one = nn.Linear(4, 1)
        self.norms = nn.ModuleList([nn.LayerNorm((3, 4)), Qwen2RMSNorm(4), nn.BatchNorm2d(4)])
        self.embedding = nn.Embedding(5, 1)
        self.convolution = nn.Conv2d(1, 1, 1)


def test_what_decays():
    module = Scaled()
    decayed, plain = parameter_groups(module, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "position_embeddings",
        "to_one.weight",
        "embedding.weight",
        "convolution.weight",
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_decay_is_that_of_the_transformers_trainer(family_checkpoint):
    """On real families it agrees with `get_decay_parameter_names`, but for lone vectors."""
    for name in ("internvl_qwen2", "qwen3_vl", "gemma3"):
        backbone = load_backbone(family_checkpoint(name))
        decayed, _ = parameter_groups(backbone, 0.05)
        ours = {n for n, p in backbone.named_parameters() if id(p) in {id(q) for q in decayed["params"]}}
        theirs = set(HuggingFaceTrainer.get_decay_parameter_names(None, backbone))
        vectors = {n for n, p in backbone.named_parameters() if p.squeeze().ndim < 2}
        assert ours == theirs - vectors
        assert any("embed" in n for n in ours)


def test_frozen_and_shared_parameters():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    module[2].requires_grad_(False)
    decayed, plain = parameter_groups(module, 0.05)
    assert [id(p) for p in decayed["params"]] == [id(module[0].weight)]
    assert [id(p) for p in plain["params"]] == [id(module[0].bias), id(module[1].bias)]
    with pytest.raises(ValueError, match="nothing is left to train"):
        parameter_groups(module.requires_grad_(False), 0.05)


class Judge(LightningModule):
    """A backbone and a head, as a reward model has."""

    def __init__(self, folder, freeze=(), **multipliers):
        super().__init__()
        self.backbone = load_backbone(folder, BackboneOptions(freeze=list(freeze)))
        self.head = nn.Linear(32, 2, bias=False)
        self.multipliers = multipliers
        self.rates = []

    def training_step(self, batch, batch_idx):
        self.rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        ids = torch.arange(4)[None] + 270
        return self.head(self.backbone.model(input_ids=ids, use_cache=False).last_hidden_state).sum()

    def configure_optimizers(self):
        return configure_warmup_cosine(
            self, None, learning_rate=1e-3, weight_decay=0.2, warmup_ratio=0.25, **self.multipliers
        )


def test_head_and_vision_keep_their_ratio_at_every_step(family_checkpoint):
    module = Judge(
        family_checkpoint("qwen3_vl"), head_learning_rate_multiplier=10.0, vision_learning_rate_multiplier=0.1
    )
    optimizer = fit(module, max_epochs=1).optimizers[0]
    names = {id(p): n for n, p in module.named_parameters()}
    kinds = []
    for group in optimizer.param_groups:
        found = {
            "head" if n.startswith("head") else "vision" if ".visual." in n and "merger" not in n else "rest"
            for n in (names[id(p)] for p in group["params"])
        }
        assert len(found) == 1
        kinds += found
    ratio = {"head": 10.0, "vision": 0.1, "rest": 1.0}
    assert sorted(kinds) == ["head", "rest", "rest", "vision", "vision"]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    for step, rates in enumerate(module.rates):
        base = 1e-3 * warmup_cosine_factor(step, 6, 0.25)
        assert rates == pytest.approx([base * ratio[kind] for kind in kinds])


def test_multipliers_that_do_nothing_are_named(family_checkpoint):
    folder = family_checkpoint("qwen3_vl")
    with pytest.warns(UserWarning, match="vision_learning_rate_multiplier 0.1 changes nothing"):
        fit(Judge(folder, freeze=["vision"], vision_learning_rate_multiplier=0.1), max_steps=1)
    with pytest.raises(ValueError, match="head_learning_rate_multiplier must be positive, got 0"):
        fit(Judge(folder, head_learning_rate_multiplier=0), max_steps=1)


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


def test_one_kernel_makes_the_same_steps():
    """Against AdamW's own loop."""
    torch.manual_seed(0)
    module = Fitted()
    loop = Fitted(partial(torch.optim.AdamW, betas=(0.9, 0.999), fused=False))
    loop.load_state_dict(begun := deepcopy(module.state_dict()))
    trainer = fit(module)
    assert [group["fused"] for group in trainer.optimizers[0].param_groups] == [True, True]
    fit(loop)
    expected = loop.state_dict()
    assert all(torch.allclose(found, expected[name], rtol=1e-6) for name, found in module.state_dict().items())
    assert not torch.equal(begun["layer.weight"], expected["layer.weight"])


class Shard(nn.Parameter):
    """Stands for parameters of a class of their own, as DTensors and quantized weights are."""


def test_what_rules_the_kernel_out():
    assert can_be_fused([{"params": [nn.Parameter(torch.ones(2, 3))]}], scaler=None)
    assert not can_be_fused([{"params": [nn.Parameter(torch.ones(2, 3))]}], scaler=torch.amp.GradScaler("cpu"))
    others = [Shard(torch.ones(2)), torch.ones(2, device="meta"), torch.ones(2, 3).t()]
    for other in (value if isinstance(value, Shard) else nn.Parameter(value) for value in others):
        assert not can_be_fused([{"params": [nn.Parameter(torch.ones(2)), other]}], scaler=None)


@pytest.mark.parametrize("own", [True, None])
@pytest.mark.parametrize("saved", [True, None])
def test_a_checkpoint_does_not_choose_the_kernel(own, saved):
    """It may be of a run whose weights were shards, or were not."""
    module = Fitted()
    if not own:
        module.layer.weight = nn.Parameter(module.layer.weight.detach().t())
    (optimizer,) = fit(module).optimizers
    assert [group["fused"] for group in optimizer.param_groups] == [own, own]
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["fused"] = saved
    optimizer.load_state_dict(state)
    assert [group["fused"] for group in optimizer.param_groups] == [own, own]


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
