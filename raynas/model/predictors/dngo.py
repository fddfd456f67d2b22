"""DNGO: Bayesian linear regression on what the last hidden layer of a network makes of the inputs.

n: observations, m: candidates, h: width. The network is that of `mlp`; scikit-learn maximises the evidence.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raynas.errors import ConfigError
from raynas.model.predictors.base import Floats, GaussianPrediction, VectorModel
from raynas.model.predictors.mlp import FittedMLPEnsemble, MLPEnsemble


@dataclass(frozen=True)
class DNGO(VectorModel):
    """Settings: those of pybnn, the implementation that BANANAS was compared with.

    Source: Snoek et al., Scalable Bayesian Optimization Using Deep Neural Networks (ICML 2015, arXiv 1502.05700), section 3: equations
    4 to 6 for the posterior. Inputs and targets are standardised.

    Args:
        layers, width, epochs, batch_size, learning_rate: of the network, with hyperbolic tangents, trained by Adam on squared errors.
        alpha: precision of the prior of the regression's weights.
        beta: precision of the noise of an observation.
        evidence: whether alpha and beta are those of greatest marginal likelihood instead.
    """

    layers: int = 3
    width: int = 50
    epochs: int = 500
    batch_size: int = 10
    learning_rate: float = 0.01
    alpha: float = 1.0
    beta: float = 1000.0
    evidence: bool = False

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta) <= 0:
            raise ConfigError(f"alpha and beta must be positive, not {self.alpha} and {self.beta}")
        self._network()

    def _network(self) -> MLPEnsemble:
        return MLPEnsemble(
            members=1,
            layers=self.layers,
            width=self.width,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            loss="mse",
            schedule="constant",
            activation="tanh",
        )

    def fit(self, inputs: NDArray[np.float32], targets: Floats, seed: int, weights: Floats | None = None) -> "FittedDNGO":
        """Learns from inputs (n, d) and targets (n,); weights (d,) as for the network."""
        network = self._network().fit(inputs, targets, seed, weights)
        basis, values = network.hidden(inputs)[0], (targets - network.center) / network.spread  # (n, h), (n,)
        alpha, beta = self._greatest_evidence(basis, values) if self.evidence and len(values) > 1 else (self.alpha, self.beta)
        return FittedDNGO(network, LinearRegression.of(basis, values, alpha, beta))

    @staticmethod
    def _greatest_evidence(basis: Floats, values: Floats) -> tuple[float, float]:
        from sklearn.linear_model import BayesianRidge

        ridge = BayesianRidge(fit_intercept=False).fit(basis, values)
        return float(ridge.lambda_), float(ridge.alpha_)


@dataclass(frozen=True)
class LinearRegression:
    """The posterior of the weights of a Bayesian linear regression (Bishop, Pattern Recognition and Machine Learning, 3.3)."""

    mean: Floats  # (h,)
    covariance: Floats  # (h, h)

    @classmethod
    def of(cls, basis: Floats, values: Floats, alpha: float, beta: float) -> "LinearRegression":
        """Given basis functions (n, h) and values (n,), with a prior of precision `alpha` and noise of precision `beta`."""
        covariance = np.linalg.inv(beta * basis.T @ basis + alpha * np.eye(basis.shape[1]))
        mean: Floats = beta * covariance @ basis.T @ values
        return cls(mean, np.asarray(covariance, dtype=np.float64))

    def predict(self, basis: Floats) -> GaussianPrediction:
        """The posterior of the function at basis functions (m, h), without the noise of an observation."""
        variances = np.einsum("mh,hg,mg->m", basis, self.covariance, basis)
        return GaussianPrediction(basis @ self.mean, np.sqrt(np.maximum(variances, 0.0)), lambda: basis @ self.covariance @ basis.T)


@dataclass(frozen=True)
class FittedDNGO:
    """A network and a regression given observations."""

    network: FittedMLPEnsemble
    regression: LinearRegression  # of standardised targets

    def predict(self, inputs: NDArray[np.float32]) -> GaussianPrediction:
        """The posterior of the function for inputs (m, d), without the noise of an observation."""
        standard, spread = self.regression.predict(self.network.hidden(inputs)[0]), self.network.spread
        mean = standard.mean * spread + self.network.center
        return GaussianPrediction(mean, spread * standard.std, lambda: spread**2 * standard.covariance())
