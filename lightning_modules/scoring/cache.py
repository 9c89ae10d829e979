"""Key-value caches for many continuations of one prefix."""

from __future__ import annotations

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """A cache layer with preallocated room for new tokens, so that decoding does not copy the cache each step.

    Buffers have the shape (batch, heads, capacity, head size); ``keys`` and ``values`` are views of the filled part.

    Args:
        keys: (batch, heads, length, head size) states of the prefix.
        values: (batch, heads, length, head size) states of the prefix.
        repeats: Number of continuations of each row.
        extra: Most tokens that will be appended.
    """

    def __init__(self, keys: Tensor, values: Tensor, repeats: int, extra: int) -> None:
        super().__init__()
        self.device, self.dtype = keys.device, keys.dtype
        self.is_initialized = True
        self._buffers = [self._with_room(states, repeats, extra) for states in (keys, values)]
        self._show(keys.shape[-2])

    @staticmethod
    def _with_room(states: Tensor, repeats: int, extra: int) -> Tensor:
        rows, heads, length, size = states.shape
        buffer = states.new_empty(rows, repeats, heads, length + extra, size)
        buffer[..., :length, :] = states.unsqueeze(1)
        return buffer.flatten(0, 1)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self._length = length
        self.keys, self.values = keys, values = tuple(buffer[..., :length, :] for buffer in self._buffers)
        return keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the new states; see the base class.

        Raises:
            ValueError: If there is no room for them.
        """
        begin = self._length
        end = begin + key_states.shape[-2]
        capacity = self._buffers[0].shape[-2]
        if end > capacity:
            raise ValueError(f"the cache has room for {capacity} tokens, got {end}; raise 'extra'")
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., begin:end, :] = states
        return self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._show(self._length)


def continue_from(prefix: DynamicCache, repeats: int, extra: int) -> DynamicCache:
    """Repeat every row of ``prefix`` ``repeats`` times in a new cache with room for ``extra`` more tokens.

    Args:
        prefix: Cache of prefixes, filled by a forward; it is not changed.
        repeats: Continuations of each prefix.
        extra: Most tokens of a continuation.

    Raises:
        TypeError: If a cache layer is not a plain growing one (a sliding window, for instance).
    """
    cache = DynamicCache()
    for layer in prefix.layers:
        is_plain = type(layer) in (DynamicLayer, RoomyLayer)
        if not isinstance(layer, DynamicLayer) or not is_plain or layer.keys is None or layer.values is None:
            raise TypeError(f"cannot continue from a cache with layers of type {type(layer).__name__}")
        cache.layers.append(RoomyLayer(layer.keys, layer.values, repeats, extra))
    return cache
