"""Pictures that look alike: difference hashes and their distances.

A difference hash (dHash, N. Krawetz 2013) tells for each cell of a small grey copy whether it is brighter than its
right neighbour. Another size, format or brightness changes few of its bits. It does not see through rotation, mirroring
or cropping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
BITS = SIDE * SIDE
"""Bits of a hash. With the usual 64, line drawings on white have much the same hash."""

_ROWS_AT_ONCE = 256
_LEAST_STEP = 2  # of 255; what is smaller is noise of compression on an even ground


class PictureMatch(NamedTuple):
    """The benchmark picture that looks most like a picture.

    Attributes:
        key: Of its question.
        distance: Number of bits that differ.
    """

    key: str
    distance: int


def difference_hash(picture: Image.Image) -> NDArray[np.uint64]:
    """The hash of a picture: (4,) words of 64 bits."""
    small = picture.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, np.int16)
    is_brighter = grey[:, :-1] - grey[:, 1:] >= _LEAST_STEP
    return np.packbits(is_brighter).view(np.uint64)


def is_featureless(found: NDArray[np.uint64]) -> bool:
    """Whether a hash is that of an even picture, which looks like every other one."""
    return not found.any()


class PictureIndex:
    """Finds the benchmark picture that looks most like another one.

    Args:
        keys: P keys of questions.
        hashes: P hashes as of :func:`difference_hash`; even pictures among them match nothing.
    """

    def __init__(self, keys: Sequence[str], hashes: Sequence[NDArray[np.uint64]]) -> None:
        kept = [number for number, each in enumerate(hashes) if not is_featureless(each)]
        self._keys = [keys[number] for number in kept]
        self._hashes = np.array([hashes[number] for number in kept], np.uint64).reshape(-1, BITS // 64)

    def best_matches(self, hashes: Sequence[NDArray[np.uint64]]) -> list[PictureMatch | None]:
        """For each of some hashes the nearest picture, the earlier one in a tie; None for an even picture."""
        given = np.array(hashes, np.uint64).reshape(-1, BITS // 64)
        found: list[PictureMatch | None] = []
        for start in range(0, len(given), _ROWS_AT_ONCE):
            part = given[start : start + _ROWS_AT_ONCE]
            if not self._keys:
                found += [None] * len(part)
                continue
            distances = np.zeros((len(part), len(self._keys)), np.uint16)
            for word in range(BITS // 64):
                distances += np.bitwise_count(part[:, word, None] ^ self._hashes[None, :, word])
            nearest = distances.argmin(axis=1)
            found += [
                None if is_featureless(own) else PictureMatch(self._keys[place], int(distances[row, place]))
                for row, (own, place) in enumerate(zip(part, nearest.tolist(), strict=True))
            ]
        return found
