"""The error for a loss or gradient that is not finite."""

from __future__ import annotations

from collections.abc import Mapping


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite.

    Args:
        message: The text of the error.
        losses: In an evaluation, the losses that are not finite, by sample id.
    """

    def __init__(self, message: str, losses: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.losses = dict(losses or {})
