"""The error of a run whose numbers are not finite."""

from __future__ import annotations

from collections.abc import Mapping


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite.

    Args:
        message: What, where, and what to do.
        losses: Of an evaluation: id of each sample whose loss is not finite to that loss.
    """

    def __init__(self, message: str, losses: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.losses = dict(losses or {})
