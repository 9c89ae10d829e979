"""Checkpoints as folders, in one format for all strategies.

The layout is that of Lightning's ModelParallelStrategy: weights (``state_dict``) and optimizers (``optimizer_0``, ...)
in the files of `torch.distributed.checkpoint`, and everything else in ``meta.pt``. Every rank writes the shards that it
holds. Optimizer states are stored by parameter name, so a checkpoint can be read by any number of ranks.
"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from datamodules.storage.files import atomic_file, errno_of

INDEX, REST = ".metadata", "meta.pt"
STATE, OPTIMIZERS = "state_dict", "optimizer_states"
SAVING, REMOVING = ".saving-", ".removing-"
"""Prefixes of the names of folders that are not completely written yet, and of folders that are being removed."""


def write_folder(path: Path, checkpoint: Mapping[str, Any], *, together: bool) -> None:
    """Write a Lightning checkpoint as a folder, which appears under its name when all of it is on disk.

    Until then it is beside its place, under a name that begins with :data:`SAVING`. An existing folder is replaced.

    Args:
        path: Folder to write; its parents are created.
        checkpoint: The dictionary of `Trainer.save_checkpoint`, with optimizer states by parameter name.
        together: True if all ranks call this, each with its shards; False if this process writes alone.

    Raises:
        OSError: On all ranks, if the disk is full.
        RuntimeError: On all ranks, if one of them cannot write for another reason.
    """
    sharded = {STATE: checkpoint[STATE]}
    sharded |= {f"optimizer_{number}": state for number, state in enumerate(checkpoint.get(OPTIMIZERS, []))}
    writer = _WholeFolderWriter(path, checkpoint)
    try:
        with warnings.catch_warnings():
            # It is intended that no process group takes part.
            warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
            save(sharded, storage_writer=writer, no_dist=not together)
    except CheckpointException as error:  # a BaseException, which callers would not catch; raised on all ranks
        causes = [f"rank {rank}: {type(cause).__name__}: {cause}" for rank, (cause, _) in error.failures.items()]
        is_full = any(errno_of(cause, path) == errno.ENOSPC for cause, _ in error.failures.values())
        if not together or torch.distributed.get_rank() == 0:
            shutil.rmtree(writer.path, ignore_errors=True)
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise RuntimeError(f"{path}: the checkpoint cannot be written: {'; '.join(causes)}") from error


class _WholeFolderWriter(FileSystemWriter):
    """Writes beside the final place; rank zero adds ``meta.pt`` and renames the folder after all ranks have written.

    PyTorch runs `finish` between its collectives, so that an error there is raised on all ranks.
    """

    def __init__(self, final: Path, checkpoint: Mapping[str, Any]) -> None:
        super().__init__(final.with_name(SAVING + final.name))
        self.final, self.checkpoint = final, checkpoint

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Remove what an interrupted save has left."""
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        if is_coordinator:
            shutil.rmtree(self.path, ignore_errors=True)

    def finish(self, *args: Any, **kwargs: Any) -> None:
        """Write the index and ``meta.pt``, and give the folder its name; rank zero alone."""
        super().finish(*args, **kwargs)
        partial = Path(self.path)
        rewrite_rest(partial, self.checkpoint)
        if self.final.exists():
            remove_folder(self.final)
        partial.rename(self.final)
        force_to_disk(self.final.parent)


def rewrite_rest(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write ``meta.pt``, which holds all but weights and optimizer states; a reader sees the old file or the new one.

    Raises:
        ValueError: If an entry is not plain values, which no run would read again.
    """
    rest = {name: value for name, value in checkpoint.items() if name not in (STATE, OPTIMIZERS)}
    if why := _why_not_plain(rest):
        found = [name for name, value in _entries(rest) if _why_not_plain(value)]
        raise ValueError(
            f"{', '.join(found)} of it must be plain values (numbers, texts, tensors; lists and dicts of them), as no "
            f"run would read anything else: {why}"
        )
    with atomic_file(path / REST) as file:
        torch.save(rest, file)
    force_to_disk(path)


def _why_not_plain(value: Any) -> str | None:
    """Why a value could be written but not read again; None for plain values."""
    try:
        file = BytesIO()
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return next((line.strip() for line in lines if "WeightsUnpickler" in line), lines[0])
    return None


def _entries(rest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Entries of a checkpoint by name; the values of a dictionary (callbacks, ...) one by one."""
    for name, value in rest.items():
        if isinstance(value, dict) and value:
            yield from ((f"{name}[{key!r}]", entry) for key, entry in value.items())
        else:
            yield name, value


def remove_folder(path: Path) -> None:
    """Remove a checkpoint. It is renamed first, so that a half-removed folder is never taken for a checkpoint."""
    doomed = path.with_name(REMOVING + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what killed runs have left half written or half removed; returns the removed paths."""
    found = [path for begin in (SAVING, REMOVING) for path in sorted(folder.glob(f"{begin}*"))]
    found += [path for path in sorted(folder.glob(f"*/.{REST}.*"))]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def force_to_disk(folder: Path) -> None:
    """Force the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_checkpoint_folder(path: Path) -> bool:
    """Whether the path is a folder in this format."""
    return (path / INDEX).is_file() and (path / REST).is_file()
