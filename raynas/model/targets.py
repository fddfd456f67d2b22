"""What the predictor is asked to predict: monotone transformations of the observed values. n: observations.

A search cares about differences among good architectures; on the scale of the raw value a few broken ones (at chance level)
drown them. Every transformation is increasing, so the best candidate stays the best.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raynas.model.ranks import mean_ranks

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """Transformed values and the way back."""

    values: Floats  # (n,)
    inverse: Callable[[Floats], Floats]


def identity(values: Floats) -> Target:
    """The value itself."""
    return Target(values, lambda z: z)


def error_percent(values: Floats) -> Target:
    """Minus the error in percent, for accuracies in [0, 1]: what the reference code of BANANAS regresses (with a sign)."""
    return Target(100 * (values - 1), lambda z: 1 + z / 100)


def log_error(values: Floats) -> Target:
    """Minus the logarithm of the error, for accuracies in [0, 1]; other values are returned as they are."""
    if values.max() > 1 or values.min() < 0:
        return identity(values)
    return Target(-np.log(1 - values + 1e-3), lambda z: 1 + 1e-3 - np.exp(-z))


def rank_gauss(values: Floats) -> Target:
    """Normal quantiles of the ranks, equal values sharing their mean rank; the way back interpolates linearly."""
    from scipy.special import ndtri

    z = ndtri(mean_ranks(values) / len(values))
    order = np.argsort(values)
    return Target(z, lambda new: np.interp(new, z[order], values[order]))


def open_rank_gauss(values: Floats) -> Target:
    """The same, but the way back goes on beyond the best and the worst value, as steeply as it goes there from the median."""
    closed = rank_gauss(values)
    middle, ends = np.median(values), np.array([values.min(), values.max()])
    least, most = closed.values.min(), closed.values.max()
    down, up = (ends - middle) / np.where(np.abs([least, most]) > 0, [least, most], 1.0)
    return Target(closed.values, lambda z: closed.inverse(z) + down * np.minimum(z - least, 0.0) + up * np.maximum(z - most, 0.0))


TARGETS: dict[str, Callable[[Floats], Target]] = {
    "identity": identity,
    "error_percent": error_percent,
    "log_error": log_error,
    "rank_gauss": rank_gauss,
    "open_rank_gauss": open_rank_gauss,
}
