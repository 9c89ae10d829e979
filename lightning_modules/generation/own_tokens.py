"""Keys and values of the tokens that belong to one running row alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MORE_TOKENS = 32  # small, since whatever stands behind the tokens lies between those of two rows in memory


class OwnTokens:
    """Stores keys and values of R rows, those of the first rows first, and grows with them.

    A buffer of a layer has the shape (rows, key heads, tokens, head size); the rows in use stand at its beginning.

    Attributes:
        lengths: (R,) number of tokens of each row.
    """

    def __init__(self) -> None:
        self.lengths = np.zeros(0, dtype=np.int64)
        self._buffers: list[list[Tensor]] = []
        self._places: dict[tuple[int, int], Tensor] = {}

    def begin(self) -> None:
        """Make room for one more token of each row."""
        rows, width = len(self.lengths), int(self.lengths.max(initial=0)) + 1
        for buffers in self._buffers:
            for number, buffer in enumerate(buffers):
                if buffer.shape[0] < rows or buffer.shape[2] < width or buffer.shape[2] > width + 2 * _MORE_TOKENS:
                    buffers[number] = _resized(buffer, rows, width)
        self._places = {}

    def end(self) -> None:
        """The tokens that were appended to all layers belong to the rows from now on."""
        self.lengths = self.lengths + 1

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (R, key heads, 1, head size) of a layer.

        Returns:
            Those of all tokens, (R, key heads, W, head size); undefined behind the tokens of a row.
        """
        if layer == len(self._buffers):
            rows, width = len(self.lengths), int(self.lengths.max(initial=0)) + 1
            self._buffers.append([_resized(states[:0], rows, width) for states in (key, value)])
        width = int(self.lengths.max(initial=0)) + 1
        found = []
        for buffer, states in zip(self._buffers[layer], (key, value), strict=True):
            size = states.shape[-1]
            buffer.view(-1, size).index_copy_(0, self._places_in(buffer), states.reshape(-1, size))
            found.append(buffer[: len(states), :, :width])
        return found[0], found[1]

    def _places_in(self, buffer: Tensor) -> Tensor:
        """Where the next token of each row and key head stands, in a buffer whose first three dimensions are one."""
        _, heads, capacity, _ = buffer.shape
        if (heads, capacity) not in self._places:
            row_and_head = np.arange(len(self.lengths) * heads) * capacity
            places = row_and_head + np.repeat(self.lengths, heads)
            self._places[heads, capacity] = torch.from_numpy(places).to(buffer.device)
        return self._places[heads, capacity]

    def copy(self, sources: np.ndarray, targets: np.ndarray, lengths: np.ndarray) -> None:
        """Copy rows to other places, all tokens of them, and set the lengths of all rows.

        Args:
            sources: Rows that are copied; none of them is a target.
            targets: Where to.
            lengths: (R,) tokens of each row afterwards; R may be another number than before.
        """
        width = int(self.lengths[sources].max(initial=0))
        self.lengths = lengths
        if not width:
            return
        rows = len(lengths)
        for buffers in self._buffers:
            for number, buffer in enumerate(buffers):
                if len(buffer) < rows:
                    buffer = buffers[number] = _resized(buffer, rows, buffer.shape[2])
                begin, end = (torch.from_numpy(places).to(buffer.device) for places in (sources, targets))
                buffer[end, :, :width] = buffer[begin, :, :width]


def _resized(buffer: Tensor, rows: int, width: int) -> Tensor:
    """A buffer with room for so many rows and tokens, and a little more, with the contents of another one."""
    have, heads, old_width, size = buffer.shape
    rows = have if have >= rows else max(rows, min(2 * have, have + 64))
    resized = buffer.new_zeros(rows, heads, -(-width // _MORE_TOKENS) * _MORE_TOKENS, size)
    kept = min(old_width, resized.shape[2])
    resized[:have, :, :kept] = buffer[:, :, :kept]
    return resized
