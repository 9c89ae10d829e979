"""Arguments that have another name now: configuration files, checkpoints and calls with the old one keep working.

To rename an argument of a model or data module, rename it in the class and add a row to :data:`KEYS`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


class BothNamesError(ValueError):
    """A value is given under its old name and under its new one."""


@dataclass(frozen=True)
class RenamedKey:
    """An argument of a class that has another name now.

    Attributes:
        section: Where a configuration has the class: ``model`` or ``data``.
        classes: Names of the classes; those that inherit from them count, too.
        old: The name that is still read.
        new: The name of the argument.
    """

    section: str
    classes: tuple[str, ...]
    old: str
    new: str

    def is_of(self, kind: type) -> bool:
        """Whether a class has the argument."""
        return any(parent.__name__ in self.classes for parent in kind.__mro__)


KEYS = (
    RenamedKey("model", ("ProcessRewardModel", "Policy"), "warmup_share", "warmup_ratio"),
    RenamedKey("data", ("VisualPRM400KDataModule",), "validation_share", "validation_fraction"),
)


def value_of_old_name(kind: type, name: str, given: Any, default: Any, others: dict[str, Any]) -> Any:
    """The value of an argument of a call in Python, which may have been given under an old name.

    Args:
        kind: The class that is made.
        name: Of the argument.
        given: Its value in the call.
        default: Its value where the call does not give it.
        others: Further arguments of the call; the old name is taken out.

    Raises:
        BothNamesError: If it is given under both names.
    """
    for key in KEYS:
        if key.new == name and key.old in others and key.is_of(kind):
            if given != default:
                raise both_names(kind.__name__, key)
            given = others.pop(key.old)
            notice(kind.__name__, key.old, key.new)
    return given


def both_names(where: str, key: RenamedKey) -> BothNamesError:
    """The error for a value that is given twice."""
    return BothNamesError(f"{where} has both {key.new} and {key.old}, its old name; leave {key.old} out")


def notice(source: str, given: str, now: str) -> None:
    """Say what to write from now on."""
    logger.warning("%s: %s has a new name; write %s", source, given, now)
