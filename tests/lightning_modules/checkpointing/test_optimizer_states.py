"""Plain optimizers; sharded ones in tests/distributed/test_resume_scenarios.py."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from lightning_modules.checkpointing.optimizer_states import load_optimizer_state


def make():
    """Two layers; the second one is frozen but for its bias, and `idle` never gets a gradient."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"first": nn.Linear(3, 4), "second": nn.Linear(4, 2), "idle": nn.Linear(1, 1, bias=False)})
    module["second"].weight.requires_grad_(False)
    return module


def optimizer_of(module, order):
    parameters = dict(module.named_parameters())
    groups = {
        "weights": {"params": [parameters["first.weight"], parameters["idle.weight"]], "weight_decay": 0.1},
        "biases": {"params": [parameters["first.bias"], parameters["second.bias"]], "weight_decay": 0.0},
    }
    if order < 0:
        groups["biases"]["params"].reverse()
    return torch.optim.AdamW([groups[name] for name in ("weights", "biases")[::order]], lr=0.1)


def train(module, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        module["second"](module["first"](torch.full((1, 3), 1.0 + step))).square().sum().backward()
        optimizer.step()


@pytest.fixture
def trained():
    module = make()
    optimizer = optimizer_of(module, 1)
    train(module, optimizer, 3)
    return module, optimizer


def test_the_state_is_that_of_the_optimizer_with_names_for_numbers(trained):
    module, optimizer = trained
    plain, named = optimizer.state_dict(), get_optimizer_state_dict(module, optimizer)
    names = ["first.weight", "idle.weight", "first.bias", "second.bias"]
    assert named["state"].keys() == {"first.weight", "first.bias", "second.bias"}
    for number, state in plain["state"].items():
        for key, value in state.items():
            assert torch.equal(named["state"][names[number]][key], value)
    for ours, group in zip(named["param_groups"], plain["param_groups"], strict=True):
        assert ours == group | {"params": [names[number] for number in group["params"]]}


@pytest.mark.parametrize("order", [1, -1])
def test_a_run_goes_on_whatever_the_order_of_its_groups(order, trained):
    module, optimizer = trained
    state = deepcopy(get_optimizer_state_dict(module, optimizer))
    again = deepcopy(module)
    other = optimizer_of(again, order)
    load_optimizer_state("c", state, again, other)
    assert [group["weight_decay"] for group in other.param_groups] == [0.1, 0.0][::order]
    train(module, optimizer, 2)
    train(again, other, 2)
    for name, value in module.named_parameters():
        assert torch.equal(dict(again.named_parameters())[name], value)


def test_numbers_of_earlier_versions_go_by_places(trained):
    module, optimizer = trained
    again = deepcopy(module)
    other = optimizer_of(again, 1)
    load_optimizer_state("c", deepcopy(optimizer.state_dict()), again, other)
    train(module, optimizer, 2)
    train(again, other, 2)
    assert torch.equal(again["first"].weight, module["first"].weight)


def test_other_parameters(trained):
    module, optimizer = trained
    state = get_optimizer_state_dict(module, optimizer)
    module["second"].weight.requires_grad_(True)
    other = torch.optim.AdamW(module.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"c: its optimizer has groups of \[2, 2\] parameters, this run of \[5\], or"):
        load_optimizer_state("c", state, module, other)
