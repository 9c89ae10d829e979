"""Read fields of untyped rows with their type checked; errors name file, line and field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST_VALUE = 80
_NAMED = 10
_LARGEST_INTEGER = 2**63 - 1  # of the tables that rows are kept in


def shown(value: object) -> str:
    """``repr`` of a value, shortened for an error message."""
    whole = repr(value)
    return whole if len(whole) <= _LONGEST_VALUE else f"{whole[:_LONGEST_VALUE]}..."


def first_of(texts: Sequence[str], separator: str = ", ") -> str:
    """The first ten of some texts, and the number of the others."""
    more = f"{separator}and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return separator.join(texts[:_NAMED]) + more


def wrong_field(where: str, name: str, expected: str, value: object) -> ValueError:
    """The error for a field of the wrong type or value."""
    return ValueError(f"{where}: field {name!r} must be {expected}, got {shown(value)}")


def required(row: Mapping[str, Any], name: str, where: str, parent: str = "") -> Any:
    """The value of a required field.

    Args:
        row: The row, or an object in it.
        name: Key in ``row``.
        where: ``file:line``.
        parent: Path of ``row`` in the whole row, such as ``"steps_with_score[2]."``.

    Raises:
        ValueError: If it is missing.
    """
    if name not in row:
        raise ValueError(f"{where}: field {parent + name!r} is missing; the row has {sorted(row)}")
    return row[name]


def text(row: Mapping[str, Any], name: str, where: str, parent: str = "", *, blank: bool = False) -> str:
    """A string of valid Unicode; only white space is refused unless ``blank`` is set."""
    value = required(row, name, where, parent)
    if not isinstance(value, str):
        raise wrong_field(where, parent + name, "a string", value)
    if not blank and not value.strip():
        raise wrong_field(where, parent + name, "a string that is not blank", value)
    if not is_unicode(value):
        raise wrong_field(where, parent + name, "valid Unicode (it holds one half of a surrogate pair)", value)
    return value


def is_unicode(value: str) -> bool:
    r"""Whether a string can be written as UTF-8; JSON may spell halves of characters, such as ``\ud800``."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def integer(
    row: Mapping[str, Any],
    name: str,
    where: str,
    parent: str = "",
    *,
    minimum: int | None = None,
    maximum: int | None = None,
) -> int:
    """An integer in the given range, both ends included, that fits in 64 bits; booleans are refused."""
    value = required(row, name, where, parent)
    is_low = isinstance(value, int) and minimum is not None and value < minimum
    is_high = isinstance(value, int) and maximum is not None and value > maximum
    if isinstance(value, bool) or not isinstance(value, int) or is_low or is_high:
        raise wrong_field(where, parent + name, f"an integer{_range(minimum, maximum)}", value)
    if abs(value) > _LARGEST_INTEGER:
        raise wrong_field(where, parent + name, "an integer of at most 64 bits", value)
    return value


def number(
    row: Mapping[str, Any],
    name: str,
    where: str,
    parent: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
) -> float:
    """A finite number in the given range, both ends included; booleans are refused."""
    value = required(row, name, where, parent)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
    if not is_number or (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        raise wrong_field(where, parent + name, f"a finite number{_range(minimum, maximum)}", value)
    return float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def boolean(row: Mapping[str, Any], name: str, where: str, parent: str = "") -> bool:
    """``true`` or ``false``."""
    value = required(row, name, where, parent)
    if not isinstance(value, bool):
        raise wrong_field(where, parent + name, "true or false", value)
    return value


def items(row: Mapping[str, Any], name: str, where: str, parent: str = "") -> list[Any]:
    """A list with at least one item."""
    value = required(row, name, where, parent)
    if not isinstance(value, list) or not value:
        raise wrong_field(where, parent + name, "a list that is not empty", value)
    return value


def numbers(row: Mapping[str, Any], name: str, where: str) -> list[float]:
    """A list with at least one item, all of them finite numbers."""
    return [number({name: value}, name, where) for value in items(row, name, where)]


def image_names(row: Mapping[str, Any], where: str) -> list[str]:
    """The ``image`` of a row, a path or a list of paths, as a list; absent, null and ``""`` mean text only."""
    value = row.get("image")
    names = [value] if isinstance(value, str) and value else (value or [])
    if not isinstance(names, list) or not all(
        isinstance(name, str) and name.strip() and is_unicode(name) for name in names
    ):
        raise wrong_field(where, "image", "a path, a list of paths, or absent", value)
    return names


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is None and maximum is None:
        return ""
    return f" of at least {minimum:g}" if maximum is None else f" in [{minimum:g}, {maximum:g}]"
