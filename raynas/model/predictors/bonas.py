"""Bayesian sigmoid regression on what a graph network makes of architectures.

n: observations, m: candidates, h: width of the last hidden layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit, logit

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.model.predictors.base import Floats, GaussianPrediction
from raynas.model.predictors.dngo import LinearRegression
from raynas.model.predictors.graph import FittedGraphEnsemble, GraphEnsemble
from raynas.registry import make
from raynas.spaces.base import SearchSpace

_NETWORK = {"members": 1, "layers": 4, "width": 64, "hidden": 64, "layer": "gcn", "positions": False, "loss": "weighted"}
_MARGIN = 0.05  # to 0 and 1, where the logits of the worst and the best target would be infinite
_ALPHA, _BETA = 4 - 2 * np.sqrt(2), -np.log(np.sqrt(2) + 1)  # equation 6 of the paper: the square of a sigmoid is about a sigmoid


@dataclass(frozen=True)
class GraphRegression:
    """BONAS' surrogate (Shi et al., NeurIPS 2020, arXiv 1911.09336, section 3): logits of the targets are regressed on an embedding.

    That is what the last hidden layer makes of a graph convolutional network, of four layers, whose squared error weighs good
    architectures more.

    Targets, there accuracies, are scaled to between 0.05 and 0.95 here, so that any metric will do.

    Args:
        network: settings of raynas.model.predictors.graph.GraphEnsemble that differ from those published.
        alpha, beta: precision of the prior of the regression's weights, and of the noise of a logit.
    """

    network: Mapping[str, Any] = field(default_factory=dict)
    alpha: float = 1.0
    beta: float = 10.0

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta) <= 0:
            raise ConfigError(f"alpha and beta must be positive, not {self.alpha} and {self.beta}")
        self._network()

    def _network(self) -> GraphEnsemble:
        network: GraphEnsemble = make({"graph": GraphEnsemble}, "graph", _NETWORK | dict(self.network), "predictor")
        return network

    def check(self, space: SearchSpace) -> None:
        """As that of the network."""
        self._network().check(space)

    def fit(self, space: SearchSpace, archs: Sequence[Arch], targets: Floats, seed: int) -> "FittedGraphRegression":
        """Learns from n architectures and targets (n,); raises as `GraphEnsemble.fit` does."""
        network = self._network().fit(space, archs, targets, seed)
        low, high = float(targets.min()), float(targets.max())
        width = (high - low) / (1 - 2 * _MARGIN) or 1.0
        low = (low + high - width) / 2
        regression = LinearRegression.of(_basis(network, archs), logit((targets - low) / width), self.alpha, self.beta)
        return FittedGraphRegression(network, regression, low, width)


@dataclass(frozen=True)
class FittedGraphRegression:
    """A graph network and a regression given observations."""

    network: FittedGraphEnsemble
    regression: LinearRegression  # of logits
    low: float  # the target whose logit is minus infinity
    width: float  # from there to that whose logit is infinity

    def predict(self, archs: Sequence[Arch]) -> GaussianPrediction:
        """Moments of the sigmoid of a normal variable for m architectures, in the closed approximation of the paper; each for itself.

        The mean is right to 0.01 of the scale. The deviation is too large by up to 0.16 of it, most where there should be none.
        """
        logits = self.regression.predict(_basis(self.network, archs))
        variance = logits.std**2
        mean = expit(logits.mean / np.sqrt(1 + np.pi * variance / 8))
        square = expit(_ALPHA * (logits.mean + _BETA) / np.sqrt(1 + np.pi * _ALPHA**2 * variance / 8))
        std = self.width * np.sqrt(np.maximum(square - mean**2, 0.0))
        return GaussianPrediction.independent(self.low + self.width * mean, std)


def _basis(network: FittedGraphEnsemble, archs: Sequence[Arch]) -> Floats:
    """(m, h + 1) what the last hidden layer makes of m architectures, and a constant."""
    hidden = network.hidden(archs)[0]
    return np.concatenate([hidden, np.ones((len(hidden), 1))], axis=1)
