"""States of optimizers by the names of parameters, which are the same on any number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer


def named_optimizer_state(state: Mapping[str, Any], module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The state of an optimizer keyed by names of parameters in place of their numbers."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    ordered = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if numbers == ordered:
        return dict(state)
    name_of = dict(zip(numbers, ordered, strict=True))
    return dict(state) | {
        "state": {name_of[number]: value for number, value in state["state"].items()},
        "param_groups": [
            dict(group) | {"params": [name_of[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }


def parameter_names(module: nn.Module, optimizers: Iterable[Optimizer]) -> list[list[list[str]]]:
    """Of each optimizer, for each group, the names of its parameters in order."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [[[names[id(p)] for p in group["params"]] for group in each.param_groups] for each in optimizers]


def check_groups(where: str, groups: Sequence[Mapping[str, Any]], own: Sequence[Sequence[str]]) -> None:
    """Check that an optimizer's saved groups are of the same parameters, in the same order.

    Raises:
        ValueError: If they are not; `Optimizer.load_state_dict` itself goes by places alone.
    """
    if [list(group["params"]) for group in groups] != [list(names) for names in own]:
        raise ValueError(
            f"{where}: its optimizer has groups of {[len(group['params']) for group in groups]} parameters, this run "
            f"of {[len(names) for names in own]}, or others; resume with the settings that say what is trained and how"
        )
