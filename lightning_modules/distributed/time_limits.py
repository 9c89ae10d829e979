"""Time limits in YAML as a number of seconds, such as `timeout` of strategies."""

from __future__ import annotations

from datetime import timedelta
from math import isfinite
from typing import Any

from jsonargparse.typing import get_registered_type, register_type


def register_seconds() -> None:
    """Let the command line read a timedelta from a number of seconds; jsonargparse itself only reads "h:m:s"."""
    clock = get_registered_type(timedelta)
    if clock is None:
        raise RuntimeError(
            "jsonargparse has no reader of timedelta any more; lightning_modules/distributed/time_limits.py needs it"
        )

    def read(value: Any) -> timedelta:
        if isinstance(value, str) and ":" in value:
            return clock.base_deserializer(value)
        if isinstance(value, bool) or (seconds := float(value)) <= 0 or not isfinite(seconds):
            raise ValueError(f"expected a positive number of seconds, or 'h:m:s', got {value!r}")
        return timedelta(seconds=seconds)

    register_type(timedelta, timedelta.total_seconds, read)
