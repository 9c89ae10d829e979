"""Ranges of the numbers that data modules take."""

from __future__ import annotations


def require_at_least(minimum: int, **arguments: int | None) -> None:
    """Refuse numbers that are too small; None is not given.

    Raises:
        ValueError: That names the first one and its value.
    """
    for name, value in arguments.items():
        if value is not None and value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")
