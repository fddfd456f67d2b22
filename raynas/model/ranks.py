"""Ranks and their correlation. n: values."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_ranks(values: Floats) -> Floats:
    """(n,) ranks from 1/2 to n - 1/2; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle: Floats = np.cumsum(count) - count / 2
    return middle[place]


def spearman(first: Floats, second: Floats) -> float | None:
    """Spearman's rank correlation; None for fewer than 3 pairs or where one side is constant."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(mean_ranks(first), mean_ranks(second))[0, 1])
