"""The response files that benchmarks' authors publish, as their scripts write them.

MATH-Vision has JSON lines with an ``id``; MathVista one JSON object by ``pid``; MMMU an object of answers by id, or a
list of objects; LogicVista an object by id whose ``answer`` is the response; DynaMath one whose response is an object,
too; We-Math and MathVerse have lists of objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.benchmarks.cloned import ResponseFields
from datamodules.storage import fields
from datamodules.storage.fields import shown

EXTRACTION = "extraction"
"""Field with the answer that the authors' judge model read from the response."""


def json_entries(path: Path) -> Iterator[tuple[str, str | None, Any]]:
    """The entries of a JSON file.

    Args:
        path: Holds an object by question id, or a list.

    Returns:
        For each entry its place, the id that it is kept under (None in a list), and its value.

    Raises:
        ValueError: If the file is not valid JSON, or is neither.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if isinstance(content, dict):
        for name, value in content.items():
            yield f"{path}: {name!r}", name, value
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield f"{path}: entry {number}", None, value
    else:
        raise ValueError(f"{path}: expected a list of objects or an object by question id, got {shown(content)}")


def entry_id(entry: Any, name: str | None, where: str, layout: ResponseFields) -> str:
    """The question that an entry is about; raises ValueError where it does not say."""
    if name is not None:
        return name
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: expected an object, got {shown(entry)}")
    values = [fields.required(entry, field, where) for field in layout.ids]
    for field, value in zip(layout.ids, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise fields.wrong_field(where, field, "a string or a whole number", value)
    return "-".join(map(str, values))


def entry_text(entry: Any, where: str, layout: ResponseFields) -> str:
    """The response of an entry, empty where the model gave none; raises ValueError if it is neither text nor JSON."""
    if isinstance(entry, Mapping):
        names = [name for name in ("response", layout.response) if name in entry]
        if not names:
            raise ValueError(f"{where}: field {layout.response!r} is missing; the entry has {sorted(entry)}")
        entry = entry[names[0]]
    if entry is None:
        return ""
    if isinstance(entry, Mapping):
        return json.dumps(entry, ensure_ascii=False)
    if isinstance(entry, bool) or not isinstance(entry, str | int | float):
        raise ValueError(f"{where}: the response must be a text, got {shown(entry)}")
    if not fields.is_unicode(str(entry)):
        raise ValueError(f"{where}: the response must be valid Unicode (it holds one half of a surrogate pair)")
    return str(entry)


def entry_extraction(entry: Any) -> str | None:
    """The answer that the authors' judge model read, where the entry holds it."""
    value = entry.get(EXTRACTION) if isinstance(entry, Mapping) else None
    return None if value is None else str(value)
