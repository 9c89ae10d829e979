"""Read checkpoint folders without executing anything that they hold.

The index of a folder is a pickle; only classes of PyTorch's checkpoint format are unpickled from it. All other objects
must be plain values. No library does this: `torch.distributed.checkpoint` unpickles whatever the index names.
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
    """The content of a file of `torch.save`, on the CPU.

    Raises:
        ValueError: If it cannot be read, or holds more than plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as a checkpoint of plain values: {error}") from error


def read_folder(folder: Path, *, with_optimizers: bool = False) -> dict[str, Any]:
    """The whole checkpoint, on the CPU of this process.

    Args:
        folder: Written by any number of ranks.
        with_optimizers: Read the optimizer states, too.

    Raises:
        ValueError: If it is not such a folder, or would execute something.
    """
    index = _index(folder)
    optimizers = _optimizer_names(index) if with_optimizers else []
    found = _read(folder, [STATE, *optimizers], {}, no_dist=True)
    rest: dict[str, Any] = plain_file(folder / REST)
    if with_optimizers:
        rest[OPTIMIZERS] = [found[name] for name in optimizers]
    return rest | {STATE: found[STATE]}


def load_shards(
    folder: Path,
    module: nn.Module,
    optimizers: Sequence[Optimizer],
    *,
    strict: bool = True,
    check: Callable[[set[str]], None] | None = None,
) -> dict[str, Any]:
    """Load a folder into the shards of this rank; all ranks call it together.

    Args:
        folder: Written by any number of ranks.
        module: Its weights are overwritten in place.
        optimizers: Of the module; empty if they are not to be loaded.
        strict: Whether the folder must hold every weight. A weight that the module does not have is always an error.
        check: Given the names of the stored weights, raises an error if they do not fit.

    Returns:
        The rest of the checkpoint.

    Raises:
        ValueError: If it is not such a folder, would execute something, or does not fit.
    """
    index, own = _index(folder), module.state_dict()
    entries = {path[1]: index.state_dict_metadata[name] for name, path in _paths(index).items() if path[0] == STATE}
    stored = {name: entry.size for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    if check is not None:
        check(set(stored))
    if problem := misfit({name: value.shape for name, value in own.items()}, stored, strict=strict):
        raise ValueError(f"{folder}: does not fit the model of this run: it {problem}")
    saved = _optimizer_names(index)
    if optimizers and len(saved) != len(optimizers):
        raise ValueError(f"{folder}: holds the states of {len(saved)} optimizers; this run has {len(optimizers)}")
    found = _read(folder, [STATE, *saved] if optimizers else [STATE], own, no_dist=False)
    for name, optimizer in zip(saved, optimizers, strict=False):
        load_optimizer_state(str(folder), found[name], module, optimizer)
    rest: dict[str, Any] = plain_file(folder / REST)
    return rest


def misfit(own: Mapping[str, Sequence[int]], stored: Mapping[str, Sequence[int]], *, strict: bool = True) -> str | None:
    """How the weights of a checkpoint differ from those of a model, as a text; None if they fit.

    Args:
        own: Shapes of the model's weights by name.
        stored: Shapes of the checkpoint's weights by name.
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


def _index(folder: Path) -> Metadata:
    for name in (INDEX, REST):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: is not a checkpoint folder of Lightning: {name!r} is missing")
    index = _PlainReader(folder).read_metadata()
    _check_sizes(folder, index)
    return index


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


def _paths(index: Metadata) -> Mapping[str, tuple[Any, ...]]:
    """The keys that lead to each entry, such as ``("optimizer_0", "state", NAME, "exp_avg")``, by the entry's name."""
    return index.planner_data or {}


def _optimizer_names(index: Metadata) -> list[str]:
    names = {path[0] for path in _paths(index).values() if path[0].startswith("optimizer_")}
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))


def _read(folder: Path, parts: Sequence[str], own: Mapping[str, Tensor], *, no_dist: bool) -> dict[str, Any]:
    found: dict[str, Any] = {part: {} if part == STATE else {"state": {}, "param_groups": []} for part in parts}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        load(found, storage_reader=_PlainReader(folder), planner=_PlainPlanner(own), no_dist=no_dist)
    return found


class _PlainPlanner(DefaultLoadPlanner):
    """Reads all entries of the parts that are asked for; objects must be plain values.

    Args:
        own: Weights of the model by name. They are overwritten in place, and optimizer states are sharded as they are.
    """

    def __init__(self, own: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.own = own

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        """Add what each entry is read into."""
        assert metadata is not None
        for name, path in _paths(metadata).items():
            if path[0] in state_dict:
                set_element(state_dict, path, self._target(path, metadata.state_dict_metadata[name]))
        super().set_up_planner(state_dict, metadata, is_coordinator)

    def _target(self, path: tuple[Any, ...], entry: Any) -> Tensor | None:
        if not isinstance(entry, TensorStorageMetadata):
            return None
        if path[0] == STATE and path[1] in self.own:
            return self.own[path[1]]
        weight = self.own.get(path[2]) if path[1] == "state" else None
        if isinstance(weight, DTensor) and weight.shape == entry.size:
            return torch.zeros_like(weight, dtype=entry.properties.dtype, requires_grad=False)
        return torch.empty(entry.size, dtype=entry.properties.dtype)

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """Put an object in its place."""
        plain = torch.load(value, map_location="cpu", weights_only=True)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], plain)


class _PlainReader(FileSystemReader):
    """A reader that accepts only classes of the format in the index."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index; raises ValueError if it names anything else."""
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
        """A class of the format or a dtype of torch; raises UnpicklingError for everything else."""
        found = super().find_class(module, name) if module == "torch" and "." not in name else None
        is_known = module in _SAFE_MODULES and "." not in name and not name.startswith("__")
        if isinstance(found, torch.dtype) or is_known or (module, name) in _SAFE_NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of the format")
