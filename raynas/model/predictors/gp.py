"""A Gaussian process on the encoding: the surrogate that BANANAS replaced. n: observations, m: candidates, d: features."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raynas.model.predictors.base import Floats, GaussianPrediction, VectorModel, check_candidates, check_observations


@dataclass(frozen=True)
class GaussianProcess(VectorModel):
    """Settings: a Matern-5/2 kernel with one length scale, an amplitude and noise, all fitted by marginal likelihood.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5; computed by scikit-learn.
    """

    noise: float = 0.1  # where the fit of the noise variance starts, in units of the targets' variance

    def fit(self, inputs: NDArray[np.float32], targets: Floats, seed: int, weights: Floats | None = None) -> "FittedGaussianProcess":
        """Learns from inputs (n, d) and targets (n,); weights (d,) divide the length scale of their features."""
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        check_observations(inputs, targets, weights)
        shift, deviation = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
        scale = np.where(deviation > 1e-12, deviation, 1.0) * np.sqrt(inputs.shape[1])  # distances of order 1
        scale = scale if weights is None else scale / weights
        kernel = ConstantKernel(1.0) * Matern(1.0, (0.05, 50.0), nu=2.5) + WhiteKernel(self.noise, (1e-5, 2.0))
        model = fitted_process(kernel, (inputs - shift) / scale, targets, seed)
        return FittedGaussianProcess(model, shift, scale, float(model.log_marginal_likelihood_value_))


@dataclass(frozen=True)
class FittedGaussianProcess:
    """A Gaussian process given observations."""

    model: Any  # of scikit-learn
    shift: NDArray[np.float64]  # (d,)
    scale: NDArray[np.float64]  # (d,)
    evidence: float  # log marginal likelihood (Rasmussen and Williams, equation 5.8), by which fits to the same targets compare

    def predict(self, inputs: NDArray[np.float32]) -> GaussianPrediction:
        """The posterior of the function (chapter 2, equations 2.25 and 2.26), without the noise of an observation; for inputs (m, d)."""
        check_candidates(inputs, len(self.shift))
        return posterior(self.model, (inputs - self.shift) / self.scale)


def fitted_process(kernel: Any, inputs: Any, targets: Floats, seed: int) -> Any:
    """The process of scikit-learn whose hyperparameters, those of `kernel` and the noise that it ends with, are fitted to the targets."""
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and only these predictors need it
    from sklearn.gaussian_process import GaussianProcessRegressor

    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound is an answer, too
        return model.fit(inputs, targets)


def posterior(model: Any, inputs: Any) -> GaussianPrediction:
    """What a process of scikit-learn, whose kernel ends with the noise of an observation, says of the function without that noise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Predicted variances smaller than 0")  # by rounding; they are set to 0
        mean, std = model.predict(inputs, return_std=True)
    noise = float(model.kernel_.k2.noise_level * model._y_train_std**2)

    def covariance() -> Floats:
        joint: Floats = model.predict(inputs, return_cov=True)[1]
        joint[np.diag_indices_from(joint)] = np.maximum(joint.diagonal() - noise, 0.0)
        return joint

    return GaussianPrediction(mean, np.sqrt(np.maximum(std**2 - noise, 0.0)), covariance)
