"""What the parser refuses, in a few lines: which key or value, in which file and line, what was meant perhaps.

`jsonargparse` explains a wrong value by the types that it tried, one inside the other. Here that chain of exceptions is
read from its end: the innermost one is about the value, those around it name the way to it.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from omegaconf.errors import OmegaConfBaseException

from lightning_modules.configuration.mistakes import shown
from lightning_modules.configuration.places import Place, Places, normalized

_KEY = re.compile(r'^Parser key "(?P<key>[^"]+)"')
_UNKNOWN = re.compile(r"(?:[Oo]ption '(?P<key>[^']+)' is not accepted|does not accept option '(?P<below>[^']+)')")
_GROUP = re.compile(r"Group '(?P<group>[^']+)' does not accept option '(?P<name>[^']+)'")
_UNRECOGNIZED = re.compile(r"^unrecognized arguments: (?P<words>.*)", re.DOTALL)
_REQUIRED = re.compile(r"the following arguments are required: (?P<keys>.*)")
_CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)'")
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<name>\S*)")
_NO_SUBCLASS = re.compile(r"^Not a valid subclass of (?P<base>\w+)\. Got value: (?P<value>.*)")
_NO_SETTINGS = re.compile(r'Parser key "(?P<key>[^"]+)": Unable to load config "(?P<value>[^"]*)"')
_NESTED = re.compile(r"NestedArg\(key='(?P<name>[^']+)'")
_SHAPE = re.compile(r"^(?:Not a valid subclass|Expected an? [^.]*(?:[Ll]ist|Sequence))")
_NO_FILE = re.compile(r"(?P<what>File does not exist|Path is not a file|File is not readable)\S*: '(?P<path>[^']*)'")
_VARIABLE = re.compile(r"Environment variable '(?P<name>[^']+)' not found")
_MISSING_KEY = re.compile(r"Interpolation key '(?P<name>[^']+)' not found")
_EXPECTED = re.compile(r"^Expected an? (?P<type>.*?)(?:\. Got value: (?P<value>.*))?$", re.DOTALL)
_SUBTYPES = re.compile(r"^Subtypes: \[(?P<types>.*)\]$", re.MULTILINE)
_LITERAL = re.compile(r"typing\.Literal\[([^\]]*)\]")
_BASES = (LightningModule, LightningDataModule, Callback, Logger, Strategy)


_BASE_NAMES = {base.__name__ for base in _BASES}


def explain(parser: argparse.ArgumentParser, message: str, error: BaseException | None, places: Places) -> list[str]:
    """The lines about something that a parser refuses.

    Args:
        parser: That refuses it; of a subcommand, or of all.
        message: As the parser puts it.
        error: The cause, if there is one.
        places: Where settings stand.

    Returns:
        What is wrong and what to do; then, if it is known, where.
    """
    chain = list(_chain(error))
    if isinstance(error, OmegaConfBaseException):
        return _of_reference(error, places)
    if marked := next((each for each in chain if isinstance(each, yaml.MarkedYAMLError)), None):
        return _of_yaml(marked, places)
    if found := _NO_FILE.search(message):
        return [f"{found['path']}: {_plain(found['what'])}, given with --config"]
    if found := _UNRECOGNIZED.match(message):
        return _of_option(found["words"].split()[0], parser, places)
    keys = [found["key"] for each in chain if isinstance(each, TypeError) and (found := _KEY.match(str(each)))]
    innermost = chain[-1] if chain else None
    text = _text_of(innermost) if innermost is not None else message
    text = _of_another_type(text, chain)
    owner = next((found["path"] for each in reversed(chain) if (found := _CLASS.match(str(each)))), None)
    if found := _GROUP.search(text):
        return _of_key([*keys, found["group"], found["name"]], owner, _parser_of(chain) or parser, places)
    if found := _UNRECOGNIZED.match(text):  # an option of a class
        option = found["words"].split()[0].partition("=")[0].lstrip("-")
        return _of_key([*keys, option], owner, _parser_of(chain) or parser, places)
    if found := _UNKNOWN.search(text):
        return _of_key([*keys, found["key"] or found["below"]], owner, _parser_of(chain) or parser, places)
    if found := _REQUIRED.search(text):
        return _of_required(keys, found["keys"], owner, places)
    if found := _NO_SETTINGS.search(message):
        key = ".".join(dict.fromkeys([*keys, found["key"]]))
        return _lines(
            f"{key}: must be a mapping, or a YAML file that holds one, got {found['value']!r}; or "
            f"give single settings, --{key}.NAME=VALUE",
            places.of(key),
        )
    key = ".".join(keys)
    if found := _NESTED.search(str(_value(chain))):
        return _lines(
            f"`{found['name']}` is not a setting of {key} as it is; where that takes a class, give --{key}=CLASS first",
            places.of(f"{key}.{found['name']}"),
        )
    place = places.of(key, _value(chain))
    if found := _NO_SUBCLASS.search(text):
        return _lines(
            f"{key}: must be a {found['base']} (class_path, with its init_args), got {found['value']}",
            place,
        )
    if (found := _NO_CLASS.search(text)) and found["name"] in _known_classes():
        return _lines(f"{key}: `{found['name']}` is a class of another kind; give one that fits here", place)
    if found := _NO_CLASS.search(text):
        near = difflib.get_close_matches(found["name"], sorted(_known_classes())) or _paths_of(found["name"])
        return _lines(
            f"{key + ': ' if key else ''}there is no class {found['name']!r}{_perhaps(near)}",
            places.of(f"{key}.class_path") or place,
        )
    return _lines(f"{key}: {_of_value(text, chain)}" if key else _one_line(text), place)


def _of_another_type(text: str, chain: list[BaseException]) -> str:
    """What is wrong inside a value that may also be no list; only the first type of several has an exception."""
    if _SHAPE.search(text):
        for each in reversed(chain):
            for pattern in (_REQUIRED, _UNKNOWN, _NO_CLASS):
                if found := pattern.search(str(each)):
                    return found[0]
    return text


def _of_reference(error: OmegaConfBaseException, places: Places) -> list[str]:
    key = str(getattr(error, "full_key", None) or "")
    place = places.of(key) or places.of(key.partition(".")[2])
    text = str(error)
    if found := _VARIABLE.search(text):
        name = found["name"]
        return _lines(
            f"the environment variable {name} is not set; set it (export {name}=...) or give the value", place
        )
    if found := _MISSING_KEY.search(text):
        return _lines(f"{found['name'].lstrip('.')!r} not found, to which a ${{...}} refers", place or key)
    return _lines(_one_line(text.partition("\n")[0]), place or key)


def _of_yaml(error: yaml.MarkedYAMLError, places: Places) -> list[str]:
    file = next((file for file in places.files if _fails(file)), None)
    mark = error.problem_mark or error.context_mark
    place = f"{file or 'configuration'}:{mark.line + 1}" if mark else str(file)
    return [
        f"{place}: Problems parsing config: not valid YAML: {' '.join(filter(None, [error.context, error.problem]))}"
    ]


def _fails(file: Path) -> bool:
    try:
        yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return True
    except (OSError, UnicodeDecodeError):
        return False
    return False


def _of_option(word: str, parser: argparse.ArgumentParser, places: Places) -> list[str]:
    option = word.partition("=")[0]
    if not option.startswith("-"):
        return [f"{word!r} belongs to no option; options are --key value or --key=value"]
    near = difflib.get_close_matches(option, _options(parser))
    return _lines(f"there is no option {option}{_perhaps(near)}", places.of(option.removeprefix("--")))


def _options(parser: argparse.ArgumentParser) -> list[str]:
    own = [option for action in parser._actions for option in action.option_strings]
    below = [
        option
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for each in set((action._name_parser_map or {}).values())
        for option in _options(each)
    ]
    return [option for option in {*own, *below} if option.startswith("--")]


def _of_key(keys: list[str], owner: str | None, parser: argparse.ArgumentParser, places: Places) -> list[str]:
    key = ".".join(keys)
    *above, name = normalized(key)
    kind = ""
    if above and owner is None and not any(option.startswith(f"--{above[0]}") for option in _options(parser)):
        above, name = [], above[0]  # nothing has settings below that key
    if owner is not None and above and _takes(owner, above[-1]):  # what is below that argument has no class to name
        kind, owner = _kind_of(owner, above[-1]), above[-1]
        options = [option.removeprefix("--") for option in _options(parser)]
        below = [option.removeprefix(f"{owner}.") for option in options if option.startswith(f"{owner}.")]
        near = below or options
    elif owner is None and above:
        owner = ".".join(above)
        near = [option.rpartition(".")[2] for option in _options(parser) if option.startswith(f"--{owner}.")]
    else:
        near = [option.removeprefix("--") for option in _options(parser)]
    whose = f"a setting of {owner.rpartition('.')[2] if owner else 'this command'}{f' ({kind})' if kind else ''}"
    matches = difflib.get_close_matches(name, near)
    if matches:
        advice = _perhaps(matches)
    elif owner and owner.rpartition(".")[2] in _BASE_NAMES:
        advice = "; give class_path, the class that has it"
    else:
        listed = _some(near)
        advice = f"; those are {listed}" if listed else "; a class has its settings below init_args"
    return _lines(f"`{name}` is not {whose}{advice}", places.of(key) or key)


def _takes(owner: str, argument: str) -> bool:
    """Whether the constructor of a class, by its path or a known name, has an argument of this name."""
    return argument in _parameters_of(owner)


def _kind_of(owner: str, argument: str) -> str:
    """The type of that argument, as its annotation names it."""
    names = re.findall(r"\w+", str(_parameters_of(owner)[argument].annotation))
    return " or ".join(name for name in names if name[0].isupper() and name != "None")


def _parameters_of(owner: str) -> Mapping[str, inspect.Parameter]:
    known = [each for base in _bases() for each in _below(base) if each.__name__ == owner]
    try:
        return inspect.signature(known[0] if known else pkgutil.resolve_name(owner)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return {}


def _of_required(keys: list[str], missing: str, owner: str | None, places: Places) -> list[str]:
    names = [name.strip().partition(".")[2] if not keys else name.strip() for name in missing.split(",")]
    names = [name or missing for name in names]
    whole = [".".join([*keys, name]) for name in names]
    what = f"{owner.rpartition('.')[2]} needs {shown(names)}" if owner else f"needed, but not given: {shown(names)}"
    options = ", ".join(f"--{key} ..." for key in whole)
    return _lines(
        f"{what}; give {options}, or a file that sets it with --config", places.of(".".join(keys)) if keys else None
    )


def _of_value(text: str, chain: list[BaseException]) -> str:
    """What a value must be, and what it is."""
    unions = [found["types"] for each in chain if (found := _SUBTYPES.search(str(each)))]
    expected = _EXPECTED.match(text)
    if expected is None:
        return _one_line(text)
    value = expected["value"] if expected["value"] is not None else _value(chain)
    # The union around it also holds the types that were tried after this one.
    is_of_union = bool(unions) and (expected["type"] in unions[-1] or "typing.Literal[" in unions[-1])
    types = _plain_types(unions[-1] if is_of_union else expected["type"])
    near = difflib.get_close_matches(str(value), re.findall(r"'([^']+)'", types))
    return f"must be {types}, got {value!r}{_perhaps(near)}"


def _value(chain: list[BaseException]) -> str | None:
    for each in reversed(chain):
        if found := re.search(r"(?:Got value|Given value): (.*)", str(each)):
            return found[1]
    return None


def _plain_types(types: str) -> str:
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", types)
    text = re.sub(r"(?:collections\.abc\.|typing\.)?\bSequence\b(?:\[\])?", "list", text)
    values = [value for found in _LITERAL.findall(text) for value in found.split(", ")]
    text = _LITERAL.sub("", text)
    parts = [part.strip(", ") for part in re.split(r", (?=\w+(?:$|,|\[))", text)]
    named = ["null" if part == "NoneType" else part for part in parts if part]
    # Numbers are written with quotes, too.
    distinct = dict.fromkeys(value for value in values if value.strip("'") == value or value.strip("'") not in values)
    return " or ".join([f"one of {', '.join(distinct)}", *named] if values else named)


def _plain(text: str) -> str:
    return text[0].lower() + text[1:]


def _perhaps(near: list[str]) -> str:
    return f"; did you mean {' or '.join(f'`{name}`' for name in near[:2])}?" if near else ""


def _some(names: list[str]) -> str:
    listed = sorted(name for name in set(names) if name != "help")
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")


def _lines(what: str, place: Place | str | None) -> list[str]:
    return [what, f"  at {place}"] if place else [what]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _text_of(error: BaseException) -> str:
    if isinstance(error, argparse.ArgumentError):
        option = f"{error.argument_name}: " if error.argument_name else ""
        return option + re.sub(r"ActionSubCommands\(.*?\)", "", error.message)
    return str(error.args[0]) if error.args else type(error).__name__


def _parser_of(chain: list[BaseException]) -> argparse.ArgumentParser | None:
    found: list[Any] = [getattr(each, "refusing_parser", None) for each in chain]
    return next((each for each in reversed(found) if each is not None), None)


def _known_classes() -> set[str]:
    return {each.__name__ for base in _bases() for each in _below(base) if not each.__name__.startswith("_")}


def _bases() -> tuple[type, ...]:
    return _BASES  # mypy takes the tuple for one of abstract classes


def _paths_of(name: str) -> list[str]:
    """Class paths of the classes of this project with a name, which a base class does not make known by it."""
    if not name:
        return []
    root = Path(__file__).parents[2]
    files = [
        file for package in ("lightning_modules", "datamodules") for file in sorted((root / package).rglob("*.py"))
    ]
    defines = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    found = [file.relative_to(root).with_suffix("") for file in files if defines.search(file.read_text("utf-8"))]
    return [".".join((*file.parts, name)) for file in found]


def _below(kind: type) -> Iterator[type]:
    derived: list[type] = kind.__subclasses__()
    for each in derived:
        yield each
        yield from _below(each)
