"""Bootstrap resampling of many columns at once.

R resamples, U units (drawn with replacement), K columns (averaged over the same draws).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def resampled_means(units: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Means of every column over R draws of U units with replacement.

    All columns see the same draws, so differences between columns are paired.

    Args:
        units: (U, K) values.
        resamples: R.
        generator: Source of the random draws.

    Returns:
        (R, K) means.

    Raises:
        ValueError: If there is no unit or no resample.
    """
    count = len(units)
    if count < 1 or resamples < 1:
        raise ValueError(f"the bootstrap needs at least one unit and one resample, got {count} and {resamples}")
    drawn = generator.integers(0, count, size=(resamples, count))
    # How often each unit was drawn: one matrix product then averages all columns of all resamples.
    drawn += np.arange(resamples)[:, None] * count
    times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count)
    return times.astype(np.float64) @ units / count


def percentile_interval(samples: Array, confidence: float = 0.95) -> tuple[Array, Array]:
    """Lower and upper percentiles over the resamples: (R, K) to two arrays (K,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    return low, high
