"""A module back from the checkpoint of its run: a file, or the folder that a sharded run writes.

Nothing that a checkpoint holds is run: files are read as plain values, and of the index of a folder, which is a pickle,
only the classes that PyTorch's format is made of.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from datamodules.fields import first_of
from lightning_modules.model.backbone_module import BackboneModule
from lightning_modules.policy import Policy
from lightning_modules.process_reward import ProcessRewardModel

_INDEX, _REST = ".metadata", "meta.pt"
_STATE = "state_dict"
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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a Lightning checkpoint holds, on the CPU; of a sharded one without the optimizer's state.

    Args:
        path: A ``.ckpt`` file, or the folder that ModelParallelStrategy (FSDP2) writes in its place.

    Raises:
        FileNotFoundError: If there is neither.
        ValueError: If it is no Lightning checkpoint, or holds more than plain values.
    """
    if path.is_dir():
        checkpoint = _read_folder(path)
    elif path.is_file():
        checkpoint = _plain(path)
    else:
        raise FileNotFoundError(f"{path}: there is no such checkpoint file or folder")
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(_STATE), Mapping):
        raise ValueError(f"{path}: is not a Lightning checkpoint: it has no {_STATE!r}")
    return checkpoint


def _plain(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as a checkpoint of plain values: {error}") from error


def _read_folder(folder: Path) -> dict[str, Any]:
    for name in (_INDEX, _REST):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: is not a checkpoint folder of Lightning: {name!r} is missing")
    reader = _PlainReader(folder)
    entries = reader.read_metadata().state_dict_metadata
    prefix = f"{_STATE}."
    weights: dict[str, Tensor] = {}
    for name, entry in entries.items():
        if name.startswith(prefix):
            if not isinstance(entry, TensorStorageMetadata):
                raise ValueError(f"{folder}: {name!r} is not a tensor")
            weights[name.removeprefix(prefix)] = torch.empty(entry.size, dtype=entry.properties.dtype)
    load({_STATE: weights}, storage_reader=reader, no_dist=True)
    return _plain(folder / _REST) | {_STATE: weights}


class _PlainReader(FileSystemReader):
    """A reader whose index can hold the classes of its format alone."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index; raises ValueError if it asks for anything else."""
        path = Path(self.path) / _INDEX
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


def load_module(path: Path, config: Path | None = None, model_name_or_path: str | None = None) -> BackboneModule:
    """The reward model or policy of a checkpoint, ready to be exported.

    Args:
        path: See :func:`read_checkpoint`.
        config: The ``config.yaml`` that its run saved; else the settings that the checkpoint holds are taken.
        model_name_or_path: The base model, where it lies elsewhere now.

    Raises:
        FileNotFoundError: If something is not there.
        ValueError: If the checkpoint does not fit the model; names weights that are missing and unexpected.
    """
    checkpoint = read_checkpoint(path)
    module = _build(checkpoint, path, config, model_name_or_path)
    module.on_load_checkpoint(checkpoint)
    stored, own = checkpoint[_STATE], module.state_dict()
    if module.is_partial:
        # That nothing is missing was checked just now; frozen weights are there, quantized or tied as they may be.
        own = {name: value for name, value in own.items() if name in stored}
    problems = []
    for what, names in (("lacks", own.keys() - stored.keys()), ("has unexpected", stored.keys() - own.keys())):
        if names:
            problems.append(f"{what} {len(names)} weights ({first_of(sorted(names))})")
    shapes = [
        f"{name}: {list(stored[name].shape)} for {list(value.shape)}"
        for name, value in own.items()
        if name in stored and stored[name].shape != value.shape
    ]
    if shapes:
        problems.append(f"has {len(shapes)} weights of another shape ({first_of(shapes)})")
    if problems:
        raise ValueError(
            f"{path}: does not fit {type(module).__name__} on {module.hparams['model_name_or_path']!r}: it "
            f"{'; it '.join(problems)}. Give the config.yaml of its run and the model that it began with"
        )
    module.load_state_dict(stored, strict=module.strict_loading)
    return module.eval()


def _build(
    checkpoint: Mapping[str, Any], path: Path, config: Path | None, model_name_or_path: str | None
) -> BackboneModule:
    if config is not None:
        section = _model_section(config)
        arguments = dict(section["init_args"] or {})
    else:
        arguments = {k: v for k, v in checkpoint.get("hyper_parameters", {}).items() if not k.startswith("_")}
    if model_name_or_path is not None:
        arguments["model_name_or_path"] = model_name_or_path
    if "model_name_or_path" not in arguments:
        raise ValueError(f"{path}: does not say which model it began with; give --config or --model-name-or-path")
    # It takes no part in what is exported, and may need a device that is not here.
    arguments.pop("optimizer", None)
    if config is None:
        is_reward_model = "head.weight" in checkpoint[_STATE]
        module_class: type[BackboneModule] = ProcessRewardModel if is_reward_model else Policy
        known = inspect.signature(module_class).parameters
        return module_class(**{name: value for name, value in arguments.items() if name in known})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BackboneModule, "model")
    try:
        parsed = parser.parse_object({"model": {"class_path": section["class_path"], "init_args": arguments}})
    except ArgumentError as error:
        raise ValueError(f"{config}: is not the configuration of a model of this version: {error}") from error
    module: BackboneModule = parser.instantiate_classes(parsed)["model"]
    return module


def _model_section(config: Path) -> Mapping[str, Any]:
    """The model's part of a configuration of LightningCLI."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{config}: not valid YAML: {error}") from error
    section = content.get("model") if isinstance(content, dict) else None
    if not isinstance(section, dict) or not {"class_path", "init_args"} <= set(section):
        raise ValueError(f"{config}: must have a 'model' with class_path and init_args, as `visualprm fit` saves it")
    return section
