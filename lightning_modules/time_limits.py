"""Time limits in YAML as plain seconds, `timeout` of strategies above all."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from jsonargparse.typing import get_registered_type, register_type


def register_seconds() -> None:
    """Let the command line read a timedelta from a number of seconds beside jsonargparse's own "h:m:s"."""
    clock = get_registered_type(timedelta)
    if clock is None:
        raise RuntimeError("jsonargparse has no reader of timedelta any more; lightning_modules/time_limits.py needs it")

    def read(value: Any) -> timedelta:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return clock.base_deserializer(value)
        if value <= 0:
            raise ValueError(f"expected a positive number of seconds, got {value}")
        return timedelta(seconds=value)

    register_type(timedelta, timedelta.total_seconds, read)
