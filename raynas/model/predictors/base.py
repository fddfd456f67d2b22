"""What a performance predictor is. n: observations, m: candidates, d: features, k: members of the ensemble."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from raynas.errors import ShapeError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What a fitted predictor says of m candidates; higher is better."""

    members: Floats  # (k, m), one row per member of the ensemble (or posterior draw)

    def __post_init__(self) -> None:
        if self.members.ndim != 2 or self.members.shape[0] == 0:
            raise ShapeError(f"predictions must have the shape (k, m) with k > 0, not {self.members.shape}")

    @property
    def mean(self) -> Floats:
        """(m,) mean over the members."""
        mean: Floats = self.members.mean(axis=0)
        return mean

    @property
    def std(self) -> Floats:
        """(m,) standard deviation over the members, with divisor k as in the reference code (the paper writes k - 1)."""
        std: Floats = self.members.std(axis=0)
        return std


class FittedPredictor(Protocol):
    """A predictor that has seen observations."""

    def predict(self, inputs: NDArray[np.float32]) -> Prediction:
        """Predictions for inputs (m, d); raises ShapeError for another d than was fitted."""


class Predictor(Protocol):
    """The settings of a predictor; immutable, so that fitting is a function of data and seed."""

    def fit(self, inputs: NDArray[np.float32], targets: Floats, seed: int, weights: Floats | None = None) -> FittedPredictor:
        """Learns from inputs (n, d) and targets (n,); `weights` (d,) say how much the features count a priori, None: all the same."""


def check_observations(inputs: NDArray[np.float32], targets: Floats, weights: Floats | None) -> None:
    """Raises ShapeError unless inputs are (n, d), targets (n,), weights (d,), n > 0, and all numbers are finite."""
    if inputs.ndim != 2 or targets.shape != inputs.shape[:1] or len(targets) == 0:
        raise ShapeError(f"inputs must be (n, d) and targets (n,) with n > 0, not {inputs.shape} and {targets.shape}")
    if weights is not None and weights.shape != inputs.shape[1:]:
        raise ShapeError(f"weights must be (d,), here ({inputs.shape[1]},), not {weights.shape}")
    if not (np.isfinite(inputs).all() and np.isfinite(targets).all()):
        raise ShapeError("inputs and targets must be finite numbers")


def check_candidates(inputs: NDArray[np.float32], features: int) -> None:
    """Raises ShapeError unless inputs are (m, features)."""
    if inputs.ndim != 2 or inputs.shape[1] != features:
        raise ShapeError(f"the predictor was fitted to {features} features, so inputs must be (m, {features}), not {inputs.shape}")
