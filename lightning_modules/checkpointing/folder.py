"""Checkpoints as folders: one format for all strategies, written whole or not at all.

The layout is that of Lightning's ModelParallelStrategy: weights (``state_dict``) and optimizers (``optimizer_0``, ...)
in the files of `torch.distributed.checkpoint`, each process writing what it holds, and the rest of the checkpoint in
``meta.pt``. States of optimizers are keyed by the names of parameters, so any number of processes reads what any other
number has written.
"""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from datamodules.storage.files import atomic_file

INDEX, REST = ".metadata", "meta.pt"
STATE, OPTIMIZERS = "state_dict", "optimizer_states"
SAVING, REMOVING = ".saving-", ".removing-"
"""How the names begin of folders that are not written to the end yet, and of those about to vanish."""


def write_folder(path: Path, checkpoint: Mapping[str, Any], *, together: bool) -> None:
    """Write a Lightning checkpoint as a folder that takes its name when all of it is on the disk.

    Until then it lies beside its place under a name that begins with :data:`SAVING`. A folder that is there already is
    replaced.

    Args:
        path: Its parent is made if need be.
        checkpoint: As of `Trainer.save_checkpoint`; states of optimizers by names of parameters.
        together: All processes of the run call this, each with its shards; otherwise this one alone writes.

    Raises:
        RuntimeError: On all processes, if one of them cannot write.
    """
    is_first = not together or torch.distributed.get_rank() == 0
    partial = path.with_name(SAVING + path.name)
    _agree(_problem_of(path, lambda: _make_empty(partial)) if is_first else None, together)
    sharded = {STATE: checkpoint[STATE]}
    sharded |= {f"optimizer_{number}": state for number, state in enumerate(checkpoint.get(OPTIMIZERS, []))}
    try:
        with warnings.catch_warnings():
            # That there is no process group, or that it takes no part, is meant.
            warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
            save(sharded, storage_writer=FileSystemWriter(partial), no_dist=not together)
    except CheckpointException as error:  # no Exception, so nobody would catch it; raised on all processes
        causes = [f"rank {rank}: {type(cause).__name__}: {cause}" for rank, (cause, _) in error.failures.items()]
        if is_first:
            shutil.rmtree(partial, ignore_errors=True)
        raise RuntimeError(f"{path}: the checkpoint cannot be written: {'; '.join(causes)}") from error

    def finish() -> None:
        _write_rest(partial, checkpoint)
        force_to_disk(partial)
        if path.exists():
            remove_folder(path)
        partial.rename(path)
        force_to_disk(path.parent)

    _agree(_problem_of(path, finish) if is_first else None, together)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _problem_of(path: Path, action: Callable[[], None]) -> str | None:
    """What went wrong, in words that every process can repeat."""
    try:
        action()
    except (OSError, ValueError, RuntimeError) as error:  # the last one is what torch.save makes of a full disk
        return f"{path}: the checkpoint cannot be written: {error}"
    return None


def rewrite_rest(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Replace what a folder holds beside weights and optimizers, at once; a reader sees the old or the new."""
    _write_rest(path, checkpoint)
    force_to_disk(path)


def _write_rest(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    rest = {name: value for name, value in checkpoint.items() if name not in (STATE, OPTIMIZERS)}
    if why := _why_not_plain(rest):
        found = [name for name, value in _parts(rest) if _why_not_plain(value)]
        raise ValueError(
            f"{', '.join(found)} of it must be plain values (numbers, texts, tensors; lists and dicts of them), as no "
            f"run would read anything else: {why}"
        )
    with atomic_file(folder / REST) as file:
        torch.save(rest, file)


def _why_not_plain(value: Any) -> str | None:
    """Why a value could be written but not read again; None for plain ones."""
    try:
        file = BytesIO()
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return next((line.strip() for line in lines if "WeightsUnpickler" in line), lines[0])
    return None


def _parts(rest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a checkpoint is made of by name, callbacks and the like one by one."""
    for name, value in rest.items():
        if isinstance(value, dict) and value:
            yield from ((f"{name}[{key!r}]", part) for key, part in value.items())
        else:
            yield name, value


def _agree(problem: str | None, together: bool) -> None:
    """Wait for all processes, and fail on all of them where one has failed."""
    problems = [problem]
    if together:
        problems = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(problems, problem)
    if found := [each for each in problems if each is not None]:
        raise RuntimeError(found[0])


def remove_folder(path: Path) -> None:
    """Remove a checkpoint; it loses its name first, so that no half of it can be taken for a checkpoint."""
    doomed = path.with_name(REMOVING + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what killed runs have left half written or half removed; returns what it was."""
    found = [path for begin in (SAVING, REMOVING) for path in sorted(folder.glob(f"{begin}*"))]
    found += [path for path in sorted(folder.glob(f"*/.{REST}.*"))]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def force_to_disk(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_checkpoint_folder(path: Path) -> bool:
    """Whether there is a folder of this format."""
    return (path / INDEX).is_file() and (path / REST).is_file()
