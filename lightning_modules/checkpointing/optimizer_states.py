"""Optimizer states by parameter name, which do not depend on the number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from torch.optim import Optimizer


def load_optimizer_state(where: str, state: Mapping[str, Any], module: nn.Module, optimizer: Optimizer) -> None:
    """Load a state of :func:`torch.distributed.checkpoint.state_dict.get_optimizer_state_dict` by parameter name.

    Checkpoints of earlier versions have numbers instead of names. They are loaded by the order of the parameters.

    Args:
        where: The checkpoint, for the error message.
        state: The state; if the module is sharded, with the shards of this rank.
        module: The module with the parameters, sharded or not.
        optimizer: Optimizer of the module.

    Raises:
        ValueError: If the state has parameter groups of other parameters than the optimizer.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    own = [{names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]
    saved = [set(group["params"]) for group in state["param_groups"]]
    is_named = all(isinstance(name, str) for group in saved for name in group)
    if is_named and sorted(map(sorted, saved)) != sorted(map(sorted, own)):
        raise ValueError(
            f"{where}: its optimizer has groups of {[len(group) for group in saved]} parameters, this run of "
            f"{[len(group) for group in own]}, or others; resume with the settings that say what is trained and how"
        )
    # Parameters that never had a gradient have no state.
    set_optimizer_state_dict(module, optimizer, dict(state), options=StateDictOptions(strict=False))
