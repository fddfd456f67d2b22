"""What a performance predictor is. n: observations, m: candidates, d: features, k: members of the ensemble, s: samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError, ShapeError
from raynas.model.encodings import Array, Encoder, encode, encode_again, feature_weights
from raynas.spaces.base import SearchSpace

Floats = NDArray[np.float64]
Inputs = NDArray[np.float32]


class Prediction(Protocol):
    """What a fitted predictor says of m candidates: a joint distribution of their values, of which higher is better."""

    @property
    def mean(self) -> Floats:
        """(m,)"""

    @property
    def std(self) -> Floats:
        """(m,) standard deviation of each."""

    def sample(self, count: int, rng: np.random.Generator) -> Floats:
        """(s, m) draws from the joint distribution, s = `count`."""

    def widened(self, factor: float) -> "Prediction":
        """The same about the mean, with deviations `factor` times as large."""


@dataclass(frozen=True)
class EnsemblePrediction:
    """The distribution that gives each member of an ensemble the same probability."""

    members: Floats  # (k, m), one row per member

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

    def sample(self, count: int, rng: np.random.Generator) -> Floats:
        """Members, drawn with replacement."""
        return self.members[rng.integers(len(self.members), size=count)]

    def widened(self, factor: float) -> "EnsemblePrediction":
        return EnsemblePrediction(self.mean + factor * (self.members - self.mean))


@dataclass(frozen=True)
class GaussianPrediction:
    """A multivariate normal distribution. The covariance is computed when it is first needed: it has m * m entries."""

    mean: Floats  # (m,)
    std: Floats  # (m,)
    covariance: Callable[[], Floats] = field(compare=False)  # () -> (m, m), with std ** 2 as its diagonal
    factor: float = 1.0  # on deviations of the covariance

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.std.shape != self.mean.shape:
            raise ShapeError(f"mean and std must have the shape (m,), not {self.mean.shape} and {self.std.shape}")

    def sample(self, count: int, rng: np.random.Generator) -> Floats:
        covariance = self.factor**2 * self.covariance()
        drawn: Floats = rng.multivariate_normal(self.mean, covariance, size=count, check_valid="ignore", method="eigh")
        return drawn

    @classmethod
    def independent(cls, mean: Floats, std: Floats) -> "GaussianPrediction":
        """The distribution of m candidates that say nothing of each other, with mean and deviation (m,) each."""
        return cls(mean, std, lambda: np.diag(std**2))

    def foreseen(self, index: int) -> "GaussianPrediction":
        """What is left to learn once candidate `index` was evaluated and came out as expected: the same means, smaller deviations."""
        joint = self.covariance()
        deviations = np.sqrt(np.maximum(joint.diagonal(), 0.0))
        if deviations[index] <= 1e-6 * deviations.max():
            return self  # known already
        most = deviations * deviations[index]  # a kernel that is not quite positive semidefinite may exceed it
        column = np.clip(joint[:, index], -most, most) / deviations[index]
        left = joint - np.outer(column, column)
        return replace(self, std=self.factor * np.sqrt(np.maximum(left.diagonal(), 0.0)), covariance=lambda: left)

    def widened(self, factor: float) -> "GaussianPrediction":
        return replace(self, std=factor * self.std, factor=factor * self.factor)


class FittedPredictor(Protocol):
    """A predictor that has seen observations."""

    def predict(self, archs: Sequence[Arch]) -> Prediction:
        """What it expects of m architectures."""


class Predictor(Protocol):
    """The settings of a predictor; immutable, so that fitting is a function of data and seed.

    It sees the space and the architectures, and takes of them what it likes: `space.graph`, the encodings of raynas.model.encodings,
    `space.scalars`. One that cannot read every space may have a method `check(space)` that raises a RaynasError: a search asks it first.
    """

    def fit(self, space: SearchSpace, archs: Sequence[Arch], targets: Floats, seed: int) -> FittedPredictor:
        """Learns from n architectures and targets (n,)."""


def check_space(predictor: Predictor, space: SearchSpace) -> None:
    """Raises what the predictor's own `check(space)` raises, if it has one."""
    check = getattr(predictor, "check", None)
    if check is not None:
        check(space)


class FittedVectorModel(Protocol):
    """A model on vectors that has seen observations."""

    def predict(self, inputs: Inputs) -> Prediction:
        """Predictions for inputs (m, d); raises ShapeError for another d than was fitted."""


class VectorModel(ABC):
    """A model that sees vectors; `OnVectors` makes it a predictor."""

    @abstractmethod
    def fit(self, inputs: Inputs, targets: Floats, seed: int, weights: Floats | None = None) -> FittedVectorModel:
        """Learns from inputs (n, d) and targets (n,); `weights` (d,) say how much the features count a priori, None: all the same."""


@dataclass(frozen=True)
class OnVectors:
    """The predictor that sees architectures by an encoding, and by proxies beside it, whose weights are 1.

    Raises:
        UnknownNameError: (fit) there is no such encoding.
        OutOfSpaceError: (fit) the space does not define it.
    """

    model: VectorModel
    encoding: str  # see raynas.model.encodings
    proxies: Encoder | None = None  # see raynas.model.proxies

    def check(self, space: SearchSpace) -> None:
        """Raises what `fit` raises where the space does not go with the encoding."""
        feature_weights(self.encoding, space)

    def fit(self, space: SearchSpace, archs: Sequence[Arch], targets: Floats, seed: int) -> "FittedOnVectors":
        """Learns from n architectures and targets (n,)."""
        inputs, weights = self.observed(space, archs)
        return FittedOnVectors(self.model.fit(inputs, targets, seed, weights), self, space)

    def observed(self, space: SearchSpace, archs: Sequence[Arch]) -> tuple[Inputs, Floats]:
        """(n, d) what the model sees of n architectures that it learns from, and how much the features count a priori, (d,)."""
        inputs, weights = self.inputs(space, archs, encode_again), feature_weights(self.encoding, space)
        return inputs, np.append(weights, np.ones(inputs.shape[1] - len(weights)))

    def inputs(
        self, space: SearchSpace, archs: Sequence[Arch], encoded: Callable[[str, SearchSpace, Sequence[Arch]], Array] = encode
    ) -> Inputs:
        """(n, d) what the model sees of n architectures; `encoded`: how the encoding is computed."""
        told = encoded(self.encoding, space, archs)
        return told if self.proxies is None else np.concatenate([told, self.proxies(space, archs, None)], axis=1)


@dataclass(frozen=True)
class FittedOnVectors:
    """A model on vectors given observations; it encodes an architecture once."""

    fitted: FittedVectorModel
    on: OnVectors
    space: SearchSpace
    _rows: dict[str, Inputs] = field(default_factory=dict)  # id -> (d,)

    def predict(self, archs: Sequence[Arch]) -> Prediction:
        """What the model expects of m architectures."""
        new = [arch for arch in archs if arch.id not in self._rows]
        if new:
            self._rows.update(zip((arch.id for arch in new), self.on.inputs(self.space, new), strict=True))
        return self.fitted.predict(np.stack([self._rows[arch.id] for arch in archs]))


def check_settings(settings: object, choices: Mapping[str, Sequence[str]], counts: Sequence[str]) -> None:
    """Raises ConfigError unless each setting in `choices` is one of those, and each of `counts` is at least 1, or None."""
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise ConfigError(f"the predictor's {name} must be one of {', '.join(allowed)}, not {getattr(settings, name)!r}")
    for name in counts:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigError(f"the predictor's {name} must be at least 1, not {value}")


def check_observations(inputs: Inputs, targets: Floats, weights: Floats | None) -> None:
    """Raises ShapeError unless inputs are (n, d), targets (n,), weights (d,), n > 0, and all numbers are finite."""
    if inputs.ndim != 2 or targets.shape != inputs.shape[:1] or len(targets) == 0:
        raise ShapeError(f"inputs must be (n, d) and targets (n,) with n > 0, not {inputs.shape} and {targets.shape}")
    if weights is not None and weights.shape != inputs.shape[1:]:
        raise ShapeError(f"weights must be (d,), here ({inputs.shape[1]},), not {weights.shape}")
    if not (np.isfinite(inputs).all() and np.isfinite(targets).all()):
        raise ShapeError("inputs and targets must be finite numbers")


def check_candidates(inputs: Inputs, features: int) -> None:
    """Raises ShapeError unless inputs are (m, features)."""
    if inputs.ndim != 2 or inputs.shape[1] != features:
        raise ShapeError(f"the predictor was fitted to {features} features, so inputs must be (m, {features}), not {inputs.shape}")
