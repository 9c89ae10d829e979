"""Where a setting stands that a user has given: file and line of a YAML file, or the option of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_CONFIG_OPTIONS = ("-c", "--config")
# Parts of a key that an option of the command line may leave out.
_OPTIONAL_PARTS = {"init_args", "dict_kwargs"}
_MAX_VALUE = 80


@dataclass(frozen=True)
class Place:
    """One setting as a user wrote it.

    Attributes:
        key: Its parts, without ``init_args`` and places in lists: ``("data", "batch_size")``.
        written: The key as it stands there: ``data.init_args.batch_size``.
        value: Text of the value; empty for a mapping or a list.
        source: ``file:line`` or ``command line``.
    """

    key: tuple[str, ...]
    written: str
    value: str
    source: str

    @property
    def is_item(self) -> bool:
        """Whether it is one of a list, which has the key of the list."""
        return self.written.endswith("]")

    def __str__(self) -> str:
        if self.source == COMMAND_LINE:
            return f"{self.source}: --{self.written}={_cut(self.value)}"
        return f"{self.source}: {self.written}" + (f": {_cut(self.value)}" if self.value else "")


COMMAND_LINE = "command line"


class Places:
    """What the arguments of a `visualprm` command, and the YAML files that they name, set.

    Args:
        arguments: Of the command; files that cannot be read are left out.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)
        self._found: list[Place] | None = None

    @property
    def files(self) -> list[Path]:
        """The configuration files, in order."""
        return [Path(value) for option, value in self._options() if option in _CONFIG_OPTIONS]

    def of(self, key: str, value: object = None) -> Place | None:
        """The place that counts of those where a setting stands: the last one.

        Args:
            key: Parts with dots between them. Where it is not known how the parts follow each other, the first and the
                last part are enough.
            value: If it is given and there are places with this value, one of these.
        """
        parts = normalized(key)
        if not parts:
            return None
        named = [place for place in self._all() if place.key == parts] or [
            place for place in self._all() if place.key[0] == parts[0] and place.key[-1] == parts[-1]
        ]
        wanted = [place for place in named if value is not None and place.value == str(value)]
        named = wanted or [place for place in named if not place.is_item]
        return named[-1] if named else None

    def mentioned(self, message: str, config: Mapping[str, Any]) -> Place | None:
        """The place of the setting that a message is about: one whose value it cites, or else whose name.

        Args:
            message: Of an error.
            config: All settings, references resolved.
        """
        given = self._all()
        paths = [(key, value) for key, value in leaves(config) if isinstance(value, str) and "/" in value]
        texts = [(value, self.of(key, value)) for key, value in paths if value in message]
        cited = [(len(value), given.index(place), place) for value, place in texts if place]
        if cited:
            return max(cited, key=lambda each: each[:2])[2]
        words = {word: at for at, word in reversed(list(enumerate(re.findall(r"[\w.]*\w", message))))}
        marks = set(re.findall(r"(?<=`)\w+(?=`)|\b\w+(?==)", message))
        # A common word, such as `loss`, may mean anything unless the message begins with it, or marks it as a name.
        named = [
            (words[name], -index, place)
            for index, place in enumerate(given)
            if not place.is_item
            for name in (".".join(place.key[start:]) for start in range(len(place.key)))
            if words.get(name) == 0 or (name in words and ("_" in name or "." in name or name in marks))
        ]
        return min(named, key=lambda each: each[:2])[2] if named else None

    def _all(self) -> list[Place]:
        if self._found is None:
            self._found = []
            for option, value in self._options():
                if option in _CONFIG_OPTIONS:
                    self._found += _places_in(Path(value))
                else:
                    written = option.removeprefix("--").removesuffix("+")
                    self._found.append(Place(normalized(written), written, value, COMMAND_LINE))
        return [place for place in self._found if place.key]

    def _options(self) -> Iterator[tuple[str, str]]:
        for index, word in enumerate(self._arguments):
            option, sign, value = word.partition("=")
            if option.startswith("-") and len(option) > 1 and not option[1].isdigit():
                following = self._arguments[index + 1 : index + 2]
                yield option, value if sign else next((each for each in following if not each.startswith("--")), "")


def normalized(key: str) -> tuple[str, ...]:
    """The parts of a key that tell settings apart."""
    return tuple(part for part in re.sub(r"\[\d+\]", "", key).split(".") if part and part not in _OPTIONAL_PARTS)


def leaves(config: object, key: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of a nested configuration, those of lists under the key of the list."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from leaves(value, f"{key}.{name}".lstrip("."))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from leaves(value, key)
    else:
        yield key, config


def _places_in(file: Path) -> list[Place]:
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []  # the parser says what is wrong with it
    return list(_places_below(root, "", file)) if root is not None else []


def _places_below(node: yaml.Node, key: str, file: Path) -> Iterator[Place]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            written = f"{key}.{name.value}".lstrip(".")
            text = value.value if isinstance(value, yaml.ScalarNode) else ""
            if name.value not in _OPTIONAL_PARTS:
                yield Place(normalized(written), written, text, f"{file}:{name.start_mark.line + 1}")
            yield from _places_below(value, written, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            written = f"{key}[{index}]"
            if isinstance(item, yaml.ScalarNode):
                yield Place(normalized(key), written, item.value, f"{file}:{item.start_mark.line + 1}")
            yield from _places_below(item, written, file)


def _cut(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else f"{value[: _MAX_VALUE - 4]} ..."
