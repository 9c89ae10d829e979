"""Kills a process before each of the things that it does to files while it saves checkpoints."""

import os
import signal
import sys
from pathlib import Path

import torch

from lightning_modules.callbacks.run_checkpoints import RunCheckpoints
from lightning_modules.checkpointing.folder import write_folder

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink"}


def checkpoint_of(step: int) -> dict:
    """A checkpoint that says by its weights of which step it is."""
    state = {"weight": {"momentum_buffer": torch.full((3,), float(step))}}
    groups = [{"params": ["weight"], "lr": 1.0}]
    weights = {"weight": torch.full((3,), float(step))}
    return {
        "global_step": step,
        "state_dict": weights,
        "optimizer_states": [{"state": state, "param_groups": groups}],
        "pytorch-lightning_version": "2.6.0",
    }


def run_until(folder: Path, change: int) -> bool:
    """Two checkpoints, of which the last is kept; killed before a change. Whether it was."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == signal.SIGKILL
    left = change

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in CHANGES or (event == "open" and str(arguments[0]).startswith(str(folder))):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        keeper = RunCheckpoints(str(folder), keep_last=1)
        for step in (1, 2):
            write_folder(folder / f"step_{step:08d}", checkpoint_of(step), together=False)
            keeper.take_up(step)
    finally:
        os._exit(0)


def main(folder: str) -> None:
    """Folders 000, 001, ... of runs that were killed before their first, second, ... change, up to one that was not."""
    torch.set_num_threads(1)
    number = 0
    while True:
        place = Path(folder) / f"{number:03d}"
        place.mkdir(parents=True)
        if not run_until(place, number):
            break
        number += 1
