"""Old names of class paths and keys: they are read as the new ones, and one line of the log says what to write.

Files, command lines, the ``config.yaml`` of a finished run and the hyperparameters of a checkpoint then keep working.
Renamed arguments are listed in :mod:`datamodules.renamed_arguments`, renamed classes here.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import get_loader

from datamodules.renamed_arguments import KEYS, RenamedKey, both_names, notice

COMMAND_LINE = "command line"
SUBCOMMANDS = ("fit", "validate", "test", "predict")

CLASS_PATHS = {
    "lightning_modules.fully_sharded.FullyShardedStrategy": (
        "lightning_modules.distributed.fully_sharded.FullyShardedStrategy"
    ),
}
"""Old class path to the present one."""


def renamed_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A configuration with present names.

    Args:
        config: As a YAML file holds it: sections ``model``, ``data``, ``trainer``, ..., alone or below a subcommand.
        source: Where it is from, for the notices.

    Returns:
        A copy; equal to ``config`` where that has no old names.

    Raises:
        BothNamesError: If an old name and its new one are both given.
    """
    renamed: dict[str, Any] = _with_class_paths(config, "", source)
    for prefix, part in parts_of(renamed):
        for key in KEYS:
            section = part.get(key.section)
            if not isinstance(section, dict) or not _is_of(section.get("class_path"), key):
                continue
            for arguments, where in ((section, key.section), (section.get("init_args"), f"{key.section}.init_args")):
                if isinstance(arguments, dict) and key.old in arguments:
                    _rename(arguments, key, f"{prefix}{where}", source)
    return renamed


def parts_of(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration itself and those below subcommands, each with the beginning of its keys."""
    yield "", config
    for name in SUBCOMMANDS:
        if isinstance(config.get(name), dict):
            yield f"{name}.", config[name]


def renamed_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with present names of options and of the class paths among their values.

    Raises:
        BothNamesError: If an old name and its new one are both given in one value.
    """
    return [_renamed_word(word, arguments[index - 1] if index else "") for index, word in enumerate(arguments)]


def _renamed_word(word: str, before: str) -> str:
    """One argument; ``before`` is the one in front of it, which may be the option whose value it is."""
    option, sign, value = word.partition("=")
    if not word.startswith("--"):
        option, sign, value = (before if before.startswith("--") else ""), "", word
        return _renamed_value(value, option)
    name = _renamed_option(option)
    if name != option:
        notice(COMMAND_LINE, option, name)
    return f"{name}={_renamed_value(value, option)}" if sign else name


def _renamed_option(option: str) -> str:
    for key in KEYS:
        for beginning in (f"--{key.section}.", f"--{key.section}.init_args."):
            if option == beginning + key.old:
                return beginning + key.new
    return option


def _renamed_value(value: str, option: str) -> str:
    """The value of an option: a class path, or the YAML or JSON text of a section."""
    if value in CLASS_PATHS:
        notice(COMMAND_LINE, value, CLASS_PATHS[value])
        return CLASS_PATHS[value]
    if not value.lstrip().startswith("{"):
        return value
    section = option.removeprefix("--")
    try:
        content = get_loader("yaml")(value)
    except yaml.YAMLError:
        return value  # the parser says what is wrong with it
    if not isinstance(content, dict):
        return value
    renamed = renamed_config({section: content}, COMMAND_LINE)[section]
    return value if renamed == content else json.dumps(renamed)


def _rename(arguments: dict[str, Any], key: RenamedKey, where: str, source: str) -> None:
    if key.new in arguments:
        raise both_names(f"{source}: {where}", key)
    arguments[key.new] = arguments.pop(key.old)
    notice(source, f"{where}.{key.old}", f"{where}.{key.new}")


def _with_class_paths(node: Any, where: str, source: str) -> Any:
    """A copy of a part of a configuration with present class paths."""
    if isinstance(node, Mapping):
        return {name: _with_class_paths(value, f"{where}.{name}".lstrip("."), source) for name, value in node.items()}
    if isinstance(node, list):
        return [_with_class_paths(value, f"{where}[{index}]", source) for index, value in enumerate(node)]
    if isinstance(node, str) and node in CLASS_PATHS:
        notice(source, f"{where}: {node}", CLASS_PATHS[node])
        return CLASS_PATHS[node]
    return node


def _is_of(class_path: object, key: RenamedKey) -> bool:
    """Whether a section configures one of these classes; one without a class path does: an overlay leaves it out."""
    if not isinstance(class_path, str) or class_path.rpartition(".")[2] in key.classes:
        return True
    try:
        kind = pkgutil.resolve_name(class_path)
    except (ImportError, AttributeError, ValueError):
        return False  # the parser says what is wrong with the class path
    return isinstance(kind, type) and key.is_of(kind)
