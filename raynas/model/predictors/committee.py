"""Several predictors as one: unlike models err differently. m: candidates, s: samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.model.predictors.base import FittedPredictor, Floats, Prediction, Predictor, check_space
from raynas.registry import make
from raynas.spaces.base import SearchSpace


@dataclass(frozen=True)
class MixturePrediction:
    """The distribution that gives each of several the same probability."""

    parts: Sequence[Prediction]

    @property
    def mean(self) -> Floats:
        """(m,)"""
        mean: Floats = np.mean([part.mean for part in self.parts], axis=0)
        return mean

    @property
    def std(self) -> Floats:
        """(m,) by the law of total variance."""
        within, between = np.mean([part.std**2 for part in self.parts], axis=0), np.var([part.mean for part in self.parts], axis=0)
        std: Floats = np.sqrt(within + between)
        return std

    def sample(self, count: int, rng: np.random.Generator) -> Floats:
        """(s, m) each row drawn from one of them."""
        drawn = rng.multinomial(count, np.full(len(self.parts), 1 / len(self.parts)))
        rows = np.concatenate([part.sample(int(each), rng) for part, each in zip(self.parts, drawn, strict=True) if each])
        return rng.permutation(rows)

    def widened(self, factor: float) -> "Prediction":
        """The same about the mean, with deviations `factor` times as large."""
        return _Widened(self, factor)


@dataclass(frozen=True)
class _Widened:
    """A distribution with larger deviations."""

    prediction: Prediction
    factor: float

    @property
    def mean(self) -> Floats:
        return self.prediction.mean

    @property
    def std(self) -> Floats:
        return self.factor * self.prediction.std

    def sample(self, count: int, rng: np.random.Generator) -> Floats:
        return self.mean + self.factor * (self.prediction.sample(count, rng) - self.mean)

    def widened(self, factor: float) -> "Prediction":
        return replace(self, factor=factor * self.factor)


@dataclass(frozen=True)
class Committee:
    """The mixture of several predictors, all fitted to the same.

    The default ranks cells of NAS-Bench-101 best of what was tried: two ensembles of graph networks, one of which learns pairwise ranks,
    and a Gaussian process on counts (benchmarks/README.md).

    Args:
        members: for each, a name of raynas.model.predictors.PREDICTORS or `module:Class`, what it takes as `options`, and as `encoding`
            if it sees vectors.
    """

    members: Sequence[Mapping[str, Any]] = (
        {"predictor": "graph"},
        {"predictor": "graph", "options": {"loss": "rank"}},
        {"predictor": "gp", "encoding": "graph_counts*0.5+operation_pairs+scalars+trunc_path_counts*0.1"},
    )

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("a committee needs members, such as {predictor: graph} and {predictor: gp, encoding: graph_counts}")
        self._made()

    def _made(self) -> list[Predictor]:
        return [make({"committee": _member}, "committee", member, "member of") for member in self.members]

    def check(self, space: SearchSpace) -> None:
        """Raises what a member raises that cannot read architectures of the space."""
        for made in self._made():
            check_space(made, space)

    def fit(self, space: SearchSpace, archs: Sequence[Arch], targets: Floats, seed: int) -> "FittedCommittee":
        """Learns from n architectures and targets (n,); raises what its members raise."""
        return FittedCommittee([made.fit(space, archs, targets, seed + i) for i, made in enumerate(self._made())])


def _member(predictor: str, options: Mapping[str, Any] | None = None, encoding: str = "path") -> Predictor:
    from raynas.model.predictors import make_predictor  # which makes committees, too

    return make_predictor(predictor, options, encoding)


@dataclass(frozen=True)
class FittedCommittee:
    """Predictors that have seen observations."""

    members: Sequence[FittedPredictor]

    def predict(self, archs: Sequence[Arch]) -> MixturePrediction:
        """What they expect of m architectures."""
        return MixturePrediction([member.predict(archs) for member in self.members])
