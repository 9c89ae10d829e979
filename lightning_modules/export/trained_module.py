"""Load a module from a checkpoint of its run: a file, or the folder that a sharded run writes.

Nothing in a checkpoint is executed. Files are read as plain values. The index of a folder is a pickle, of which only
the classes of PyTorch's checkpoint format are accepted.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from datamodules.storage.checkpoint_names import require_checkpoint
from lightning_modules.checkpointing.folder import STATE
from lightning_modules.checkpointing.reading import misfit, plain_file, read_folder
from lightning_modules.configuration.mistakes import cause_in_constructor
from lightning_modules.configuration.renames import renamed_config
from lightning_modules.model.backbone_module import BackboneModule
from lightning_modules.policy import Policy
from lightning_modules.process_reward import ProcessRewardModel


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Contents of a Lightning checkpoint, on the CPU; of a sharded one without the optimizer state.

    Args:
        path: A ``.ckpt`` file, or the folder that ModelParallelStrategy (FSDP2) writes in its place.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If it is not a Lightning checkpoint, or holds more than plain values.
    """
    if path.is_dir():
        checkpoint = read_folder(path)
    elif path.is_file():
        require_checkpoint(path)
        checkpoint = plain_file(path)
    else:
        raise FileNotFoundError(f"{path}: there is no such checkpoint file or folder")
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(STATE), Mapping):
        raise ValueError(f"{path}: is not a Lightning checkpoint: it has no {STATE!r}")
    return checkpoint


def load_module(path: Path, config: Path | None = None, model_name_or_path: str | None = None) -> BackboneModule:
    """Load the reward model or policy of a checkpoint, ready for export.

    Args:
        path: See :func:`read_checkpoint`.
        config: The ``config.yaml`` of the run; by default the settings in the checkpoint.
        model_name_or_path: The base model, if it is in another place now.

    Raises:
        FileNotFoundError: If the checkpoint or the configuration does not exist.
        ValueError: If the checkpoint does not fit the model; names missing and unexpected weights.
    """
    checkpoint = read_checkpoint(path)
    module = _build(checkpoint, path, config, model_name_or_path)
    module.on_load_checkpoint(checkpoint)
    stored, own = checkpoint[STATE], module.state_dict()
    if module.is_partial:
        # That nothing is missing was checked just now; frozen weights are there, quantized or tied as they may be.
        own = {name: value for name, value in own.items() if name in stored}
    if problem := misfit(*({name: value.shape for name, value in weights.items()} for weights in (own, stored))):
        raise ValueError(
            f"{path}: does not fit {type(module).__name__} on {module.hparams['model_name_or_path']!r}: it {problem}. "
            f"Give the config.yaml of its run and the model that it began with"
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
        stored = {k: v for k, v in checkpoint.get("hyper_parameters", {}).items() if not k.startswith("_")}
        arguments = renamed_config({"model": stored}, str(path))["model"]
    if model_name_or_path is not None:
        arguments["model_name_or_path"] = model_name_or_path
    if "model_name_or_path" not in arguments:
        raise ValueError(f"{path}: does not say which model it began with; give --config or --model-name-or-path")
    # It takes no part in what is exported, and may need a device that is not here.
    arguments.pop("optimizer", None)
    if config is None:
        is_reward_model = "head.weight" in checkpoint[STATE]
        module_class: type[BackboneModule] = ProcessRewardModel if is_reward_model else Policy
        known = inspect.signature(module_class).parameters
        return module_class(**{name: value for name, value in arguments.items() if name in known})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BackboneModule, "model")
    try:
        parsed = parser.parse_object({"model": {"class_path": section["class_path"], "init_args": arguments}})
    except ArgumentError as error:
        raise ValueError(f"{config}: is not the configuration of a model of this version: {error}") from error
    try:
        module: BackboneModule = parser.instantiate_classes(parsed)["model"]
    except ValueError as error:
        raise cause_in_constructor(error) from error.__cause__
    return module


def _model_section(config: Path) -> Mapping[str, Any]:
    """The model's part of a configuration of LightningCLI."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{config}: not valid YAML: {error}") from error
    section = renamed_config(content, str(config)).get("model") if isinstance(content, dict) else None
    if not isinstance(section, dict) or not {"class_path", "init_args"} <= set(section):
        raise ValueError(f"{config}: must have a 'model' with class_path and init_args, as `visualprm fit` saves it")
    return section
