"""What is wrong with a configuration file in itself, before its settings are looked at.

PyYAML takes the last one of two equal keys and says nothing, so half of a file would not count. Other mistakes end in
exceptions that name neither the file nor the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

MOST_VALUES = 100_000
"""Of a file, its aliases written out; the parser would write them out, too, and take hours."""

_SECTIONS = ("model", "data", "trainer")
_MERGE = "tag:yaml.org,2002:merge"
_NULL, _TEXT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:str"
_HOLDS = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}


def problem_of_file(file: Path) -> str | None:
    """What is wrong with a YAML file of settings, with the line; None if nothing is, or the parser says it as well.

    Args:
        file: That is given with ``--config``. What is no file that can be opened is left to the parser.
    """
    if re.match(r"\w+:/", str(file)):
        return f"{file}: is no file of this machine; download it first"
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"{file}: is not UTF-8 text (byte {error.start + 1}); give a YAML file of settings"
    except (OSError, ValueError):
        return None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return f"{file}:{line}: holds a character that YAML does not allow (U+{ord(text[error.position]):04X})"
    except yaml.YAMLError:
        return None
    except RecursionError:
        return f"{file}: is nested too deeply for a file of settings"
    if root is None or root.tag == _NULL:
        return f"{file}: is empty; give a YAML file of settings (model: ..., data: ..., trainer: ...)"
    if not isinstance(root, yaml.MappingNode):
        return f"{file}: must hold keys (model: ..., data: ..., trainer: ...), but holds {_HOLDS[type(root)]}"
    try:
        size = _size(root, {}, set())
    except RecursionError:
        return f"{file}: holds an alias of itself, so that it never ends"
    if size > MOST_VALUES:
        return f"{file}: its aliases come to {size:.0g} values, more than the {MOST_VALUES:,} of a file of settings"
    return next(_problems(root, file), None)


def _size(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """How many values a node comes to where each alias is written out.

    Raises:
        RecursionError: If it holds itself.
    """
    if id(node) in above:
        raise RecursionError
    if id(node) not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_size(part, known, above | {id(node)}) for part in parts)
    return known[id(node)]


def _problems(root: yaml.MappingNode, file: Path) -> Iterator[str]:
    yield from _repeated(root, "", file, set())
    for name, value in root.value:
        if name.value in _SECTIONS:
            yield from _of_section(name.value, value, file)


def _repeated(node: yaml.Node, key: str, file: Path, seen: set[int]) -> Iterator[str]:
    """Keys that a mapping has twice; a merge (``<<``) may hold any of them again."""
    if id(node) in seen:  # an anchor, which stands in several places
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            written = f"{key}.{name.value}".lstrip(".")
            line = name.start_mark.line + 1
            if name.tag != _MERGE and name.value in lines:
                first = lines[name.value]
                yield f"{file}:{line}: {written}: is there already, in line {first}; remove one of both"
            lines.setdefault(str(name.value), line)
            yield from _repeated(value, written, file, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated(item, f"{key}[{index}]", file, seen)


def _of_section(name: str, node: yaml.Node, file: Path) -> Iterator[str]:
    place = f"{file}:{node.start_mark.line + 1}: {name}"
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = f"{file}:{key.start_mark.line + 1}: {name}.{key.value}"
            if key.value == "class_path" and value.tag != _TEXT:
                yield f"{place}: must be the name of a class"
            if key.value == "init_args" and not isinstance(value, yaml.MappingNode):
                yield f"{place}: must hold keys with values, or be left out"
    elif isinstance(node, yaml.SequenceNode) or node.tag not in (_TEXT, _NULL):
        yield f"{place}: must hold keys with values, but holds {_HOLDS[type(node)]}"
    elif node.tag == _NULL and name == "trainer":
        yield f"{place}: is empty; give its settings, or leave it out"
