"""Which n of N candidates a method chooses from: the first n, or all subsets of n.

The mean over all subsets is an unbiased estimate of the accuracy with n candidates, with a smaller variance than the
first n alone. It takes the candidates of a question for exchangeable, so it is not meant for a first candidate that was
decoded greedily.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.bootstrap import Array

Subsets = Literal["all", "first"]

MOST_SUBSETS = 128
"""Where there is no closed form and there are more subsets than this, as many are drawn at random."""


def subset_indices(subsets: Subsets, n: int, of: int) -> NDArray[np.int64]:
    """Subsets to average over: (R, n) indices, ascending in each row.

    Args:
        subsets: The first n candidates, or all subsets (at most :data:`MOST_SUBSETS`, drawn with a fixed seed).
        n: Candidates of a subset.
        of: All candidates, at least n.
    """
    if subsets == "first" or n == of:
        return np.arange(n)[None]
    if n == 1:
        return np.arange(of)[:, None]
    if comb(of, n) <= MOST_SUBSETS:
        return np.array(list(combinations(range(of), n)))
    generator = np.random.default_rng([of, n])
    drawn = generator.random((MOST_SUBSETS, of)).argpartition(n - 1, axis=1)[:, :n]
    return np.sort(drawn, axis=1)


def rank_weights(n: int, of: int) -> Array:
    """Chance that the candidate of each rank is the best of a random subset of n: (of,), which add up to 1.

    The candidate of rank r, from 0, is the best of the subsets that hold it and none of the r better ones:
    C(of - 1 - r, n - 1) of C(of, n).
    """
    return np.array([comb(of - 1 - rank, n - 1) / comb(of, n) for rank in range(of)])
