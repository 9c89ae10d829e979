"""What the predictions in a file depend on, kept beside them, so that no run mixes them with others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.storage.fields import first_of

_FORMAT = 2
ADDED = ("weights", "checkpoint")
"""Settings that earlier versions did not name; runs that they have begun go on without."""
_UNNAMED = {"question_text": "bare"}
"""What it means that a setting is not named, for those whose default has changed since."""


@dataclass(frozen=True)
class Base:
    """What an output that is growing held before, and holds until it is complete again.

    Attributes:
        samples: Rows of each prompt.
        rows: All rows.
        left_out: Prompts without rows, and why; they get none now.
        costs: What the rows have cost.
    """

    samples: int
    rows: int
    left_out: Mapping[str, str]
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """What journals and output belong to.

    Attributes:
        settings: All that predictions depend on beside the prompts.
        prompts: Digest of all prompts; None in records of earlier versions.
        count: Number of prompts; None likewise.
        is_finished: Whether the output is complete.
        left_out: Prompts without rows in the output, and why.
        rows: Number of rows of the output; None before it is complete, and in records of earlier versions.
        when: When the output was completed, in UTC; None likewise.
        costs: Sums of what the rows have cost, as far as the module says.
        base: Of an output that is growing: see :class:`Base`.
    """

    settings: Mapping[str, Any]
    prompts: str | None = None
    count: int | None = None
    is_finished: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    when: str | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    base: Base | None = None

    def text(self) -> str:
        """For the file."""
        base = None if self.base is None else vars(self.base)
        added = {"rows": self.rows, "when": self.when, "costs": self.costs, "base": base}
        return json.dumps(
            {
                "format": _FORMAT,
                "settings": self.settings,
                "prompts": {"digest": self.prompts, "count": self.count},
                "finished": self.is_finished,
                "left_out": self.left_out,
                **{name: value for name, value in added.items() if value},
            },
            sort_keys=True,
        )

    @property
    def kind(self) -> str:
        """For messages."""
        return "a finished" if self.is_finished else "an unfinished"

    @property
    def is_old(self) -> bool:
        """Whether an earlier version wrote it, which did not look at the content of prompts."""
        return self.prompts is None

    @classmethod
    def of(cls, path: Path, *, is_finished: bool) -> Record:
        """The record in a file.

        Args:
            path: Of the file.
            is_finished: What a record of an earlier version stands for, which does not say so.

        Raises:
            ValueError: If the file holds something else, or is from a later version.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError(f"expected an object, got {type(found).__name__}")
        except ValueError as error:
            raise ValueError(f"{path}: not a record of predictions ({error}); --overwrite begins anew") from error
        if "format" not in found:
            return cls(found, is_finished=is_finished)
        if found["format"] not in range(_FORMAT + 1):
            raise ValueError(f"{path}: of a later version of this package (format {found['format']!r})")
        try:
            return cls._of_fields(found)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: not a record of predictions ({type(error).__name__}: {error}); --overwrite begins anew"
            ) from error

    @classmethod
    def _of_fields(cls, found: Mapping[str, Any]) -> Record:
        prompts = found["prompts"]
        added = {name: found[name] for name in ("rows", "when", "costs") if name in found}
        if "base" in found:
            added["base"] = Base(**found["base"])
        return cls(
            found["settings"], prompts["digest"], prompts["count"], found["finished"], found["left_out"], **added
        )


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest of all prompts: of ids and contents in their order."""
    whole = hashlib.blake2b(digest_size=16)
    for pair in digests.items():
        for text in pair:
            whole.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str:
    """The settings that differ, by name, with both values; empty if none do.

    Those of :data:`ADDED` may be missing before.
    """
    parts = []
    for name in dict.fromkeys([*before, *now]):
        old, new = (settings.get(name, _UNNAMED.get(name)) for settings in (before, now))
        if name not in before and name in ADDED:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            parts.append(differences(old, new, f"{path}{name}."))
        elif old != new:
            parts.append(f"{path}{name} was {old!r}, is {new!r}")
    return ", ".join(part for part in parts if part)


def other_prompts(before: Record | None, answered: Mapping[str, str | None], now: Mapping[str, str]) -> str:
    """How the prompts that were answered differ from those of now; empty if they are among them.

    Args:
        before: The record of the answers.
        answered: Digest of each answered prompt by id; None in journals of earlier versions.
        now: Digest of each prompt by id.
    """
    gone = [name for name in answered if name not in now]
    changed = [name for name, digest in answered.items() if digest not in (None, now.get(name, digest))]
    problems = [
        *([f"{len(gone)} answered ones are gone ({first_of(gone)})"] if gone else []),
        *([f"{len(changed)} answered ones have another content ({first_of(changed)})"] if changed else []),
    ]
    if gone and before is not None and before.is_old:
        problems.append("an earlier version of this package numbered rows without 'id' by line")
    return "; ".join(problems)
