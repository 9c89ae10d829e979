"""Ranges of the numbers that data modules take."""

from __future__ import annotations

from collections.abc import Sequence

MAX_WORKERS = 1024
"""Of a dataloader: each is a process."""


def require_workers(num_workers: int) -> None:
    """Refuse a number of workers that is negative, or that no machine can start.

    Raises:
        ValueError: That names it.
    """
    require_at_least(0, num_workers=num_workers)
    if num_workers > MAX_WORKERS:
        raise ValueError(f"num_workers must be at most {MAX_WORKERS}, got {num_workers}")


def require_names(**arguments: Sequence[str] | None) -> None:
    """Refuse lists of names without any, or with one twice: nothing would be said. None is not given.

    Raises:
        ValueError: That names the first one.
    """
    for name, value in arguments.items():
        if value is not None and not value:
            raise ValueError(f"{name} must name at least one; leave it out for all")
        if twice := [each for each in value or () if list(value or ()).count(each) > 1]:
            raise ValueError(f"{name} has {twice[0]!r} {list(value or ()).count(twice[0])} times; name it once")


def require_at_least(minimum: int, **arguments: int | None) -> None:
    """Refuse numbers that are too small; None is not given.

    Raises:
        ValueError: That names the first one and its value.
    """
    for name, value in arguments.items():
        if value is not None and value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")
