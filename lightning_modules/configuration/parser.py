"""The parser of the `visualprm` command.

References such as ``${seed_everything}`` and ``${run_name}`` are resolved once, after all files and the command line
are merged. So an overlay or an option reaches every value that refers to it.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser
from omegaconf.errors import OmegaConfBaseException

from datamodules.renamed_arguments import BothNamesError
from lightning_modules.configuration.mistakes import is_debugging, shortened
from lightning_modules.configuration.places import Places
from lightning_modules.configuration.refusals import explain
from lightning_modules.configuration.renames import parts_of, renamed_arguments, renamed_config
from lightning_modules.configuration.yaml_files import problem_of_file

PARSER_OPTIONS = {"parser_mode": "omegaconf+", "allow_abbrev": False}
"""``omegaconf+`` resolves references late. An abbreviated option (``--trainer.max_epoch``) is an error."""

# A subcommand's settings lie below its name, where `${seed_everything}` would not be found.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

VERSION_OPTIONS = ("--trainer.logger.version", "--trainer.logger.init_args.version")


class ConfigurationParser(LightningArgumentParser):
    """A parser that also reads old names, and takes the version of the logger for the name of the run.

    Both happen to each file and to the command line before they are merged: see
    :mod:`lightning_modules.configuration.renames` and :func:`with_run_name`.

    What it refuses is said in a few lines, see :mod:`lightning_modules.configuration.refusals`.

    Attributes:
        places: Where the settings of the last command line stand; for parsers of classes and subcommands, too.
        first_word: Of that command line, the subcommand as a rule.
    """

    places = Places([])
    first_word = ""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **options: Any
    ) -> Namespace:
        """Parse a command line; see the base class."""
        given = sys.argv[1:] if args is None else args
        if self.exit_on_error:  # not for the arguments of a class, which its own parser reads
            ConfigurationParser.places = Places(given)
            if any(isinstance(action, argparse._SubParsersAction) for action in self._actions):
                ConfigurationParser.first_word = next(iter(given), "")
            for file in self.places.files:
                if problem := problem_of_file(file):
                    self.error(problem)
        try:
            words = renamed_arguments(given)
            return super().parse_args([*words, *run_name_option(words)], *more, **options)
        except (OmegaConfBaseException, BothNamesError) as error:
            self.error(str(error), error)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is refused and where it stands, and end the process with status 2.

        A parser of a class inside another one raises `argparse.ArgumentError` instead.
        """
        if not self.exit_on_error:
            if ex is not None and not hasattr(ex, "refusing_parser"):
                ex.refusing_parser = self  # type: ignore[attr-defined]
            super().error(message, ex)
        if is_debugging():
            if ex is not None:
                traceback.print_exception(ex)
            else:
                traceback.print_stack()
        parser = getattr(ex, "subcommand_parser", None) or self
        first, *more = explain(parser, message, ex, self.places)
        if ConfigurationParser.first_word.startswith("-"):
            first += "; options of a subcommand follow it: visualprm fit --config FILE"
        lines = [f"visualprm: error: {first}", *more]
        self.exit(2, "".join(f"{shortened(line)}\n" for line in lines))

    def parse_string(self, content: str, path: str = "", *more: Any, **options: Any) -> Namespace:
        """Parse the text of a configuration file; see the base class."""
        return super().parse_string(_present_text(content, path), path, *more, **options)


def with_run_name(config: dict[str, Any]) -> dict[str, Any]:
    """Let a logger's version name the run, where a file gives one and no ``run_name``.

    The experiments name the folders of a run after ``run_name``. So a file, or an option, that gives the logger another
    version does not write its model over that of the base experiment.

    Args:
        config: As a YAML file holds it; it is changed.

    Returns:
        The same.
    """
    for _, part in parts_of(config):
        node: Any = part
        for key in ("trainer", "logger", "init_args", "version"):
            node = node.get(key) if isinstance(node, dict) else None
        if _is_name(node) and "run_name" not in part:
            part["run_name"] = str(node)
    return config


def run_name_option(arguments: Sequence[str]) -> list[str]:
    """The same for a command line: the option that is to be added to it, if any."""
    given: dict[str, str] = {}
    for index, word in enumerate(arguments):
        option, sign, value = word.partition("=")
        given[option] = value if sign else next(iter(arguments[index + 1 : index + 2]), "")
    versions = [given[option] for option in VERSION_OPTIONS if option in given]
    if "--run_name" in given or not versions or not _is_name(versions[-1]):
        return []
    return [f"--run_name={versions[-1]}"]


def _is_name(version: object) -> bool:
    """Whether the version of a logger is a name of its own: not left to the logger, and not a reference."""
    return version not in (None, "", "null") and "${" not in str(version)


def _present_text(content: str, path: str) -> str:
    """The text of a configuration file with present names and the name of the run."""
    try:
        config = get_loader("yaml")(content)
    except yaml.YAMLError:
        return content  # the parser says what is wrong with it
    if not isinstance(config, dict):
        return content
    source = str(Path(path).resolve()) if path else "configuration"
    present = with_run_name(renamed_config(config, source))
    return content if present == config else yaml.safe_dump(present, sort_keys=False)
