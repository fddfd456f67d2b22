"""A predictor that knows of other searches: it learns the difference. n: observations, m: candidates, k: priors, s: samples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raynas.arch import Arch
from raynas.model.predictors.base import FittedPredictor, Floats, Prediction, Predictor
from raynas.spaces.base import SearchSpace

_CERTAIN = 2.0  # standard errors from zero below which a slope counts for nothing


@dataclass(frozen=True)
class Informed:
    """What models of other searches predict, as far as observations bear them out, and a predictor of what is left.

    The model of a prior need not be in the units of the targets: it is regressed on them (see `slopes`), and one that says nothing of them
    has no part in what is predicted.

    Args:
        predictor: learns what is left.
        models: one for each prior.
    """

    predictor: Predictor
    models: Sequence[FittedPredictor]

    def fit(self, space: SearchSpace, archs: Sequence[Arch], targets: Floats, seed: int) -> "FittedInformed":
        """Learns from n architectures and targets (n,)."""
        told = np.stack([model.predict(archs).mean for model in self.models])
        weights = slopes(told, targets)
        parts = [(float(weight), model) for weight, model in zip(weights, self.models, strict=True) if weight]
        return FittedInformed(self.predictor.fit(space, archs, targets - weights @ told, seed), parts)


def slopes(told: Floats, targets: Floats) -> Floats:
    """(k,) by how much to multiply each row of `told` (k, n), that their sum comes near targets (n,), but for a constant.

    One after the other, the most correlated first, is regressed on what those before it have left. A slope b of standard error e is
    shrunk to b (1 - (2 e / b)^2), as of James and Stein (1961), and to 0 where it lies within two errors of it or below.
    """
    centred, left = told - told.mean(axis=1, keepdims=True), targets - targets.mean()
    norms, found = np.linalg.norm(centred, axis=1), np.zeros(len(told))
    free = len(targets) - 2  # degrees of freedom
    for _ in range(len(told) if free > 0 else 0):
        scale = norms * np.linalg.norm(left)
        r = np.divide(centred @ left, scale, out=np.zeros(len(told)), where=(scale > 1e-12) & (found == 0))
        j = int(r.argmax())
        if r[j] <= 0 or (kept := 1 - _CERTAIN**2 * (1 - r[j] ** 2) / (free * r[j] ** 2)) <= 0:
            break
        found[j] = kept * r[j] * np.linalg.norm(left) / norms[j]
        left = left - found[j] * centred[j]
    return found


@dataclass(frozen=True)
class FittedInformed:
    """An informed predictor that has seen observations."""

    rest: FittedPredictor
    parts: Sequence[tuple[float, FittedPredictor]]  # slopes, and the models of priors

    def predict(self, archs: Sequence[Arch]) -> "Prediction":
        """What is expected of m architectures."""
        rest = self.rest.predict(archs)
        if not self.parts:
            return rest
        return Shifted(rest, np.sum([slope * model.predict(archs).mean for slope, model in self.parts], axis=0))


@dataclass(frozen=True)
class Shifted:
    """A distribution elsewhere."""

    prediction: Any  # a Prediction, which may have `foreseen`
    by: Floats  # (m,)

    @property
    def mean(self) -> Floats:
        """(m,)"""
        mean: Floats = self.prediction.mean + self.by
        return mean

    @property
    def std(self) -> Floats:
        """(m,)"""
        std: Floats = self.prediction.std
        return std

    def sample(self, count: int, rng: np.random.Generator) -> Floats:
        """(s, m)"""
        drawn: Floats = self.prediction.sample(count, rng) + self.by
        return drawn

    def widened(self, factor: float) -> "Shifted":
        """The same about the mean, with deviations `factor` times as large."""
        return replace(self, prediction=self.prediction.widened(factor))

    def foreseen(self, index: int) -> "Shifted":
        """As `GaussianPrediction.foreseen`."""
        return replace(self, prediction=self.prediction.foreseen(index))
