"""A Gaussian process on distances between architectures. n: observations, m: candidates, k: distances, g: groups of them.

scikit-learn carries the algebra and the fit of the hyperparameters; here is the kernel: a sum over groups of distances,
sum_g alpha_g exp(-sum_i beta_gi d_gi), the form of NASBOT (Kandasamy et al. 2018, arXiv 1802.07191, section 3), of which the
exponential kernel on one distance is the simplest case.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError, ShapeError
from raynas.model.distances import DISTANCES
from raynas.model.predictors.base import Floats, GaussianPrediction
from raynas.model.predictors.gp import fitted_process, posterior
from raynas.registry import resolve
from raynas.spaces.base import SearchSpace

_GROUPS: Mapping[str, int] = {"otmann": 2}  # distances of which the second half is a group of its own


@dataclass(frozen=True)
class DistanceProcess:
    """Settings: amplitudes, rates of decay and the noise are fitted by marginal likelihood.

    Args:
        distance: one of raynas.model.distances.DISTANCES.
        noise: where the fit of the noise variance starts, in units of the targets' variance.
        most: observations to learn from, the best of more: time grows with their third power.
    """

    distance: str = "adjacency"
    noise: float = 0.01
    most: int = 300

    def __post_init__(self) -> None:
        resolve(DISTANCES, self.distance, "distance")
        if self.most < 1 or not self.noise > 0:
            raise ConfigError(f"most must be at least 1 and noise positive, not {self.most} and {self.noise}")

    def fit(self, space: SearchSpace, archs: Sequence[Arch], targets: Floats, seed: int) -> "FittedDistanceProcess":
        """Learns from n architectures and targets (n,); raises OutOfSpaceError where the space does not define the distance."""
        from sklearn.gaussian_process.kernels import WhiteKernel

        if targets.shape != (len(archs),) or not len(archs) or not np.isfinite(targets).all():
            raise ShapeError(f"targets must be ({len(archs)},) finite numbers, and at least one, not of the shape {targets.shape}")
        kept = np.sort(np.argsort(-targets, kind="stable")[: self.most])
        archs, targets = [archs[i] for i in kept], targets[kept]
        known, ids = {arch.id: arch for arch in archs}, tuple(arch.id for arch in archs)
        measure = resolve(DISTANCES, self.distance, "distance")
        among = measure(space, archs, archs)
        groups = _GROUPS.get(self.distance, 1)
        medians = np.array([np.median(d[d > 0]) if d.any() else 1.0 for d in among])
        scale = (medians * len(among) / groups)[:, None, None]  # with rates of 1, the covariance falls to 1/e at the median distance

        rows = dict(zip(ids, (among / scale).transpose(1, 0, 2), strict=True))  # id -> (k, n), from what is observed

        def distances(left: tuple[str, ...], right: tuple[str, ...]) -> Floats:
            if right != ids:
                return np.asarray(measure(space, [known[i] for i in left], [known[i] for i in right]) / scale)
            if new := [i for i in dict.fromkeys(left) if i not in rows]:
                rows.update(zip(new, (measure(space, [known[i] for i in new], archs) / scale).transpose(1, 0, 2), strict=True))
            return np.stack([rows[i] for i in left], axis=1)

        kernel = exponentials()(distances, np.full(groups, 1.0 / groups), np.ones(len(among))) + WhiteKernel(self.noise, (1e-4, 2.0))
        return FittedDistanceProcess(fitted_process(kernel, _ids(archs), targets, seed), known)


@dataclass(frozen=True)
class FittedDistanceProcess:
    """A process given observations."""

    model: Any  # of scikit-learn, on ids
    known: dict[str, Arch]  # by id, those that were seen

    def predict(self, archs: Sequence[Arch]) -> GaussianPrediction:
        """The posterior of the function for m architectures, without the noise of an observation."""
        self.known.update((arch.id, arch) for arch in archs)
        return posterior(self.model, _ids(archs))


def _ids(archs: Sequence[Arch]) -> NDArray[np.str_]:
    return np.array([arch.id for arch in archs])[:, None]  # (n, 1), which scikit-learn calls features


@cache
def exponentials() -> Any:
    """The kernel as a class of scikit-learn, which is slow to import. It sees ids."""
    from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

    class Exponentials(Kernel):  # type: ignore[misc]  # sklearn has no types
        requires_vector_input = False

        def __init__(self, distances: Callable[[tuple[str, ...], tuple[str, ...]], Floats], amplitudes: Floats, rates: Floats) -> None:
            self.distances = distances  # between ids (n,) and (m,): (k, n, m)
            self.amplitudes = amplitudes  # (g,), which scikit-learn makes a number where g = 1
            self.rates = rates  # (k,), likewise

        @property
        def hyperparameter_amplitudes(self) -> Any:
            return Hyperparameter("amplitudes", "numeric", (1e-2, 4.0), np.size(self.amplitudes))

        @property
        def hyperparameter_rates(self) -> Any:
            return Hyperparameter("rates", "numeric", (0.1, 10.0), np.size(self.rates))

        def __call__(self, X: NDArray[np.str_], Y: NDArray[np.str_] | None = None, eval_gradient: bool = False) -> Any:
            if Y is not None:
                return self._covariance(X, Y)[0] @ _projector(self._covariance(Y, Y)[0])
            covariance, gradient = _positive(*self._covariance(X, X, eval_gradient))
            return (covariance, gradient.transpose(1, 2, 0)) if eval_gradient else covariance

        def _covariance(self, X: NDArray[np.str_], Y: NDArray[np.str_], eval_gradient: bool = False) -> tuple[Floats, Floats]:
            """(n, m), and its gradient (g + k, n, m) by the logarithms, empty unless asked for."""
            scaled = np.reshape(self.rates, (-1, 1, 1)) * self.distances(tuple(X[:, 0]), tuple(Y[:, 0]))
            grouped = scaled.reshape(np.size(self.amplitudes), -1, *scaled.shape[1:])  # (g, k/g, n, m)
            parts = np.reshape(self.amplitudes, (-1, 1, 1)) * np.exp(-grouped.sum(axis=1))  # (g, n, m)
            if not eval_gradient:
                return parts.sum(axis=0), np.empty((0, *scaled.shape[1:]))
            by_rate = -(grouped * parts[:, None]).reshape(scaled.shape)
            return parts.sum(axis=0), np.concatenate([parts, by_rate])

        def diag(self, X: NDArray[np.str_]) -> Floats:
            return np.full(len(X), np.sum(self.amplitudes))

        def is_stationary(self) -> bool:
            return True

    return Exponentials


def _is_positive(covariance: Floats) -> bool:
    try:
        np.linalg.cholesky(covariance + 1e-8 * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        return False
    return True


def _positive(covariance: Floats, gradient: Floats) -> tuple[Floats, Floats]:
    """The nearest positive semidefinite matrix (n, n), as distances by matching do not promise one, and its gradient (h, n, n).

    Eigenvalues below 0 become 0; the derivative of this is that of Daleckii and Krein (Higham, Functions of Matrices, theorem 3.11).
    """
    if _is_positive(covariance):
        return covariance, gradient
    values, vectors = np.linalg.eigh(covariance)
    kept = np.maximum(values, 0.0)
    apart = values[:, None] - values
    close = np.abs(apart) < 1e-12
    quotients = np.where(close, values > 0, (kept[:, None] - kept) / np.where(close, 1.0, apart))
    return (vectors * kept) @ vectors.T, vectors @ (quotients * (vectors.T @ gradient @ vectors)) @ vectors.T


def _projector(covariance: Floats) -> Floats:
    """(n, n) what takes covariances with others into the span that `_positive` leaves (Chen et al., JMLR 2009, section 3.2).

    Without it, what they have outside would count as an observation without noise.
    """
    if _is_positive(covariance):
        return np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    projector: Floats = (vectors * (values > 0)) @ vectors.T
    return projector
