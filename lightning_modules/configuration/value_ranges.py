"""Settings of a command that are refused before anything is made: numbers out of range and paths that are empty.

Lightning itself checks some of the trainer's numbers. Others divide by zero in the middle of a run, or mean something
that nobody asks for: a gradient clipped at -1 is not clipped at all.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import timedelta
from typing import Any

from datamodules.argument_ranges import MAX_WORKERS
from lightning_modules.configuration.places import leaves

MAX_SEED = 2**32 - 1
"""Largest number that all libraries take for a seed."""

_PATH_KEY = re.compile(
    r"(?:[._]|^)(?:annotations|bench|benchmarks|demonstrations|dir|folder|from|output|path|prompts|rollouts|root|scores"
    r"|run_name)$"
)
_OF_THE_SHELL = re.compile(r"^~(?=/|$)|\$\w+")
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
}
"""Of settings of the trainer."""

_DURATION = "a time above 0, as text DD:HH:MM:SS or as a mapping such as {hours: 3}"


def require_64_bits(settings: Mapping[str, Any]) -> None:
    """Refuse whole numbers that nothing can count to.

    Raises:
        ValueError: That names the first one.
    """
    for key, value in leaves(settings):
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"{key} must be a number of at most 64 bits, got {value}")


def require_paths(settings: Mapping[str, Any]) -> None:
    """Refuse paths that are empty or that only a shell could read.

    A variable that is not set would leave out data, or mean the present folder; and a folder ``~`` would be made.

    Raises:
        ValueError: That names the first one.
    """
    for key, value in leaves(settings):
        if isinstance(value, str) and not value.strip() and _PATH_KEY.search(key):
            kind = "name" if key == "run_name" else "path"
            raise ValueError(
                f"{key} must be a {kind}, got {value!r}; is a variable of the shell not set? Give a {kind}, or leave "
                f"it out"
            )
        if isinstance(value, str) and _PATH_KEY.search(key) and (found := of_the_shell(value)):
            raise ValueError(
                f"{key} must be a path, got {value!r}, where no shell reads {found}; write ${{oc.env:HOME}} for the "
                f"home folder and ${{oc.env:NAME}} for a variable"
            )


def of_the_shell(path: str) -> str | None:
    """What only a shell could replace in a path, if there is such: ``~`` at its beginning, or ``$NAME``."""
    found = _OF_THE_SHELL.search(path)
    return found[0] if found else None


def require_seed(seed: int | bool) -> None:
    """Refuse what is no seed of the libraries for random numbers.

    Raises:
        ValueError: If it is out of range.
    """
    if not isinstance(seed, bool) and not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed_everything must be from 0 to {MAX_SEED}, got {seed}")


def require_trainer(subcommand: str, trainer: Mapping[str, Any]) -> None:
    """Refuse numbers of the trainer that Lightning takes, and that stop a run in its middle or train on nothing.

    Args:
        subcommand: That is run.
        trainer: Its settings.

    Raises:
        ValueError: That names the first one.
    """
    for name, least in _LEAST.items():
        value = trainer.get(name)
        if value is not None and value < least:
            raise ValueError(f"trainer.{name} must be at least {least}, got {value}")
    _require_devices(trainer.get("devices"))
    _require_duration(trainer.get("max_time"))
    interval = trainer.get("val_check_interval")
    if interval is not None and not isinstance(interval, str | Mapping | timedelta) and interval == 0:
        raise ValueError("trainer.val_check_interval must be above 0, got 0; set limit_val_batches 0 to never validate")
    if subcommand == "fit" and trainer.get("limit_train_batches") == 0:
        raise ValueError("trainer.limit_train_batches 0 trains on nothing; give at least 1, or leave it out")
    if subcommand == "predict" and trainer.get("limit_predict_batches") == 0:
        raise ValueError("trainer.limit_predict_batches 0 predicts nothing; give at least 1, or leave it out")
    steps, most = trainer.get("min_steps"), trainer.get("max_steps")
    if steps is not None and most is not None and 0 <= most < steps:
        raise ValueError(f"trainer.min_steps must be at most max_steps={most}, got {steps}")


def _require_devices(devices: object) -> None:
    count = int(devices) if isinstance(devices, str) and devices.strip().isdecimal() else devices
    if isinstance(count, int) and count > MAX_WORKERS:  # each is a process of this machine
        raise ValueError(f"trainer.devices must be at most {MAX_WORKERS}, got {count}")


def _require_duration(value: object) -> None:
    """Refuse what is no time, or none that passes."""
    if value is None:
        return
    given = value
    if isinstance(value, str):
        parts = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", value.strip())
        given = parts and timedelta(
            **dict(zip(("days", "hours", "minutes", "seconds"), map(int, parts.groups()), strict=True))
        )
    elif isinstance(value, Mapping):
        try:
            given = timedelta(**value)
        except (TypeError, OverflowError):
            given = None
    if not isinstance(given, timedelta) or given <= timedelta(0):
        raise ValueError(f"trainer.max_time must be {_DURATION}, got {value!r}")


def require_values(settings: Any, key: str = "") -> None:
    """Refuse ``null`` for an argument of a class that must have a value; `jsonargparse` lets it pass.

    Args:
        settings: Of a command, or a part of them.
        key: Where that part stands.

    Raises:
        ValueError: That names the first one.
    """
    if isinstance(settings, Mapping):
        arguments = settings.get("init_args")
        if isinstance(settings.get("class_path"), str) and isinstance(arguments, Mapping):
            defaults = _defaults_without_null(settings["class_path"])
            for name, value in arguments.items():
                if value is None and name in defaults:
                    raise ValueError(f"{key}.{name} must have a value, got null; leave it out for {defaults[name]!r}")
                if is_dataclass(defaults.get(name)) and isinstance(value, list | int | float):
                    raise ValueError(f"{key}.{name} must hold keys with values, got {value!r}")
        for name, value in settings.items():
            require_values(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    elif isinstance(settings, list):
        for value in settings:
            require_values(value, key)


def _defaults_without_null(class_path: str) -> dict[str, Any]:
    """Arguments of a class and its bases that have a default and cannot be None, with the default."""
    try:
        kind = pkgutil.resolve_name(class_path)
    except (ImportError, AttributeError, ValueError):
        return {}
    found: dict[str, Any] = {}
    for each in reversed(inspect.getmro(kind)) if inspect.isclass(kind) else ():
        if "__init__" not in vars(each):
            continue
        for name, parameter in inspect.signature(each.__init__).parameters.items():  # type: ignore[misc]
            if parameter.default not in (inspect.Parameter.empty, None) and "None" not in str(parameter.annotation):
                found[name] = parameter.default
            else:
                found.pop(name, None)
    return found
