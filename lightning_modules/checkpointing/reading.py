"""Checkpoint folders read without running anything that they hold.

Of the index of a folder, which is a pickle, only the classes that PyTorch's format is made of are taken, and of all
other objects plain values. No library does it: `torch.distributed.checkpoint` unpickles whatever the index asks for.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from datamodules.storage.fields import first_of
from lightning_modules.checkpointing.folder import INDEX, OPTIMIZERS, REST, STATE
from lightning_modules.checkpointing.optimizer_states import load_optimizer_state

_SAFE_MODULES = {
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
    "torch.distributed.checkpoint.planner",
}
_SAFE_NAMES = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
}


def plain_file(path: Path) -> Any:
    """What a file of `torch.save` holds, on the CPU.

    Raises:
        ValueError: If it holds more than plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as a checkpoint of plain values: {error}") from error


def read_folder(folder: Path, *, with_optimizers: bool = False) -> dict[str, Any]:
    """The whole checkpoint, on the CPU of this process alone.

    Args:
        folder: Written by any number of processes.
        with_optimizers: Read their states too.

    Raises:
        ValueError: If it is no such folder, or would run something.
    """
    index = _open(folder)
    found: dict[str, Any] = {STATE: _weights(index)}
    if with_optimizers:
        found |= {name: _optimizer(index, name, {}) for name in _optimizer_names(index)}
    _load(index, found, no_dist=True)
    rest: dict[str, Any] = plain_file(folder / REST)
    if with_optimizers:
        rest[OPTIMIZERS] = [found.pop(name) for name in _optimizer_names(index)]
    return rest | found


def load_shards(
    folder: Path,
    module: nn.Module,
    optimizers: Sequence[Optimizer],
    *,
    strict: bool = True,
    check: Callable[[set[str]], None] | None = None,
) -> dict[str, Any]:
    """Load a folder into the shards that this process holds; all processes call it together.

    Args:
        folder: Written by any number of processes.
        module: Its weights are overwritten in place.
        optimizers: Of the module; none where they are not to be loaded.
        strict: Whether the folder must hold every weight. One that the module does not have is always an error.
        check: Raises an error if the names of the stored weights do not fit otherwise.

    Returns:
        The rest of the checkpoint.

    Raises:
        ValueError: If it is no such folder, would run something, or does not fit.
    """
    index = _open(folder)
    stored, own = _weights(index, empty=False), module.state_dict()
    fit = {name: value for name, value in own.items() if name in stored}
    if check is not None:
        check(set(stored))
    shapes = ({name: value.shape for name, value in own.items()}, {name: value.size for name, value in stored.items()})
    if problem := misfit(*shapes, strict=strict):
        raise ValueError(f"{folder}: does not fit the model of this run: it {problem}")
    found: dict[str, Any] = {STATE: fit}
    parameters = dict(module.named_parameters())
    saved = _optimizer_names(index)
    if optimizers and len(saved) != len(optimizers):
        raise ValueError(f"{folder}: holds the states of {len(saved)} optimizers; this run has {len(optimizers)}")
    if optimizers:
        found |= {name: _optimizer(index, name, parameters) for name in saved}
    _load(index, found, no_dist=False)
    for name, optimizer in zip(saved, optimizers, strict=False):
        load_optimizer_state(str(folder), found[name], module, optimizer)
    rest: dict[str, Any] = plain_file(folder / REST)
    return rest


def misfit(own: Mapping[str, Sequence[int]], stored: Mapping[str, Sequence[int]], *, strict: bool = True) -> str | None:
    """How the weights of a checkpoint differ from those of a model, in words; None if they fit.

    Args:
        own: Shapes of the model's weights by name.
        stored: Those of the checkpoint.
        strict: Whether the checkpoint must have every weight.
    """
    problems = []
    for what, names in (
        ("lacks", own.keys() - stored.keys() if strict else set()),
        ("has unexpected", stored.keys() - own.keys()),
    ):
        if names:
            problems.append(f"{what} {len(names)} weights ({first_of(sorted(names))})")
    shapes = [
        f"{name}: {list(stored[name])} for {list(shape)}"
        for name, shape in own.items()
        if name in stored and tuple(stored[name]) != tuple(shape)
    ]
    if shapes:
        problems.append(f"has {len(shapes)} weights of another shape ({first_of(shapes)})")
    return "; it ".join(problems) or None


class _Index:
    """A folder with its index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reader = _PlainReader(folder)
        metadata = self.reader.read_metadata()
        self.entries = metadata.state_dict_metadata
        self.paths: Mapping[str, tuple[Any, ...]] = metadata.planner_data or {}
        _check_sizes(folder, metadata)


def _check_sizes(folder: Path, metadata: Metadata) -> None:
    """Find a shard that a copy has cut short before anything is read."""
    sizes: dict[str, int] = {}
    for part in (metadata.storage_data or {}).values():
        sizes[part.relative_path] = max(sizes.get(part.relative_path, 0), part.offset + part.length)
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file}: is missing, a part of the checkpoint")
        if file.stat().st_size < size:
            raise ValueError(f"{file}: is cut short, {file.stat().st_size} of {size} bytes; copy the checkpoint again")


def _open(folder: Path) -> _Index:
    for name in (INDEX, REST):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: is not a checkpoint folder of Lightning: {name!r} is missing")
    return _Index(folder)


def _weights(index: _Index, empty: bool = True) -> dict[str, Any]:
    """The entries of weights by name, or tensors to read them into."""
    prefix = f"{STATE}."
    found: dict[str, Any] = {}
    for name, entry in index.entries.items():
        if name.startswith(prefix):
            if not isinstance(entry, TensorStorageMetadata):
                raise ValueError(f"{index.folder}: {name!r} is not a tensor")
            found[name.removeprefix(prefix)] = _empty(entry) if empty else entry
    return found


def _empty(entry: TensorStorageMetadata) -> Tensor:
    return torch.empty(entry.size, dtype=entry.properties.dtype)


def _optimizer_names(index: _Index) -> list[str]:
    names = {name.split(".", 1)[0] for name in index.entries}
    return sorted((n for n in names if n.startswith("optimizer_")), key=lambda name: int(name.rpartition("_")[2]))


def _optimizer(index: _Index, optimizer: str, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """What to read an optimizer's state into: sharded like the parameter wherever a tensor has its shape."""
    found: dict[str, Any] = {optimizer: {"state": {}, "param_groups": []}}
    for name, path in index.paths.items():
        if path[0] != optimizer:
            continue
        entry = index.entries[name]
        value: Any = None
        if isinstance(entry, TensorStorageMetadata):
            parameter = parameters.get(path[2]) if path[1] == "state" else None
            if isinstance(parameter, DTensor) and parameter.shape == entry.size:
                value = torch.zeros_like(parameter, dtype=entry.properties.dtype, requires_grad=False)
            else:
                value = _empty(entry)
        set_element(found, path, value)
    state: dict[str, Any] = found[optimizer]
    return state


def _load(index: _Index, found: dict[str, Any], *, no_dist: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        load(found, storage_reader=index.reader, planner=_PlainPlanner(), no_dist=no_dist)


class _PlainPlanner(DefaultLoadPlanner):
    """A planner that takes nothing but plain values from the objects of a checkpoint."""

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """Put an object where it belongs."""
        plain = torch.load(value, map_location="cpu", weights_only=True)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], plain)


class _PlainReader(FileSystemReader):
    """A reader whose index can hold the classes of its format alone."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index; raises ValueError if it asks for anything else."""
        path = Path(self.path) / INDEX
        with path.open("rb") as file:
            try:
                metadata = _PlainUnpickler(file).load()
            except (pickle.UnpicklingError, EOFError, AttributeError) as error:
                raise ValueError(f"{path}: cannot be read as the index of a checkpoint: {error}") from error
        if not isinstance(metadata, Metadata):
            raise ValueError(f"{path}: is not the index of a checkpoint, but {type(metadata).__name__}")
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id  # type: ignore[union-attr]
        return metadata


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Classes of the format, and torch's dtypes; raises UnpicklingError for all others."""
        found = super().find_class(module, name) if module == "torch" and "." not in name else None
        is_known = module in _SAFE_MODULES and "." not in name and not name.startswith("__")
        if isinstance(found, torch.dtype) or is_known or (module, name) in _SAFE_NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of the format")
