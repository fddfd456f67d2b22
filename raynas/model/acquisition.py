"""Acquisition functions: how much a candidate promises. m: candidates. Higher is better; nothing is mutated.

Source: White et al., arXiv 1910.11858, section 4.3 and appendix. Signs are turned to maximisation.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from raynas.model.predictors.base import Prediction

Floats = NDArray[np.float64]
Acquisition = Callable[[Prediction, float, np.random.Generator], Floats]  # (prediction, best observed value, rng) -> (m,)

_UCB_BETA = 0.5  # the paper's
_MIN_STD = 1e-9  # members that agree exactly must not divide by zero


def independent_thompson_sampling(prediction: Prediction, best: float, rng: np.random.Generator) -> Floats:
    """One draw from N(mean_i, std_i) for each candidate on its own (the paper's choice)."""
    return rng.normal(prediction.mean, prediction.std)


def thompson_sampling(prediction: Prediction, best: float, rng: np.random.Generator) -> Floats:
    """One draw from the joint distribution of all candidates: of an ensemble, the predictions of one member."""
    drawn: Floats = prediction.sample(1, rng)[0]
    return drawn


def upper_confidence_bound(prediction: Prediction, best: float, rng: np.random.Generator) -> Floats:
    """mean + 0.5 std."""
    return prediction.mean + _UCB_BETA * prediction.std


def _improvement(prediction: Prediction, best: float) -> tuple[Floats, Floats, Floats]:
    """g = (mean - best) / std, its normal distribution function and density."""
    from scipy.special import ndtr

    g = (prediction.mean - best) / np.maximum(prediction.std, _MIN_STD)
    return g, ndtr(g), np.exp(-0.5 * g**2) / np.sqrt(2 * np.pi)


def expected_improvement(prediction: Prediction, best: float, rng: np.random.Generator) -> Floats:
    """std (g Phi(g) + phi(g)); the reference code divides std by 5 first, which the paper does not."""
    g, cdf, density = _improvement(prediction, best)
    return np.maximum(prediction.std, _MIN_STD) * (g * cdf + density)


def probability_of_improvement(prediction: Prediction, best: float, rng: np.random.Generator) -> Floats:
    """Phi(g)."""
    return _improvement(prediction, best)[1]


def mean(prediction: Prediction, best: float, rng: np.random.Generator) -> Floats:
    """The mean alone: no exploration."""
    return prediction.mean


ACQUISITIONS: dict[str, Acquisition] = {
    "its": independent_thompson_sampling,
    "ts": thompson_sampling,
    "ucb": upper_confidence_bound,
    "ei": expected_improvement,
    "pi": probability_of_improvement,
    "mean": mean,
}
