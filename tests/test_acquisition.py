"""How much a candidate promises. m: candidates, k: members."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raynas.model.acquisition import ACQUISITIONS
from raynas.model.predictors import EnsemblePrediction

Floats = NDArray[np.float64]

MEMBERS = np.random.default_rng(0).normal(size=(5, 40))
BEST = 0.8


def score(name: str, members: Floats, best: float = BEST, seed: int = 0) -> Floats:
    return ACQUISITIONS[name](EnsemblePrediction(members), best, np.random.default_rng(seed))


def slow(name: str, values: Floats) -> float:
    """The score of one candidate from the predictions of its k members, for those that draw nothing; maximisation."""
    mean, std = sum(values) / len(values), math.sqrt(sum((v - sum(values) / len(values)) ** 2 for v in values) / len(values))
    normal = scipy.stats.norm(mean, std)
    if name == "ei":  # the expectation of what exceeds the best, integrated
        return float(normal.expect(lambda value: max(value - BEST, 0.0), lb=BEST, ub=mean + 12 * std)) if mean + 12 * std > BEST else 0.0
    return float({"ucb": mean + 0.5 * std, "pi": normal.sf(BEST), "mean": mean}[name])


@pytest.mark.parametrize("name", ["ucb", "ei", "pi", "mean"])
def test_against_the_formula_candidate_by_candidate(name: str) -> None:
    np.testing.assert_allclose(score(name, MEMBERS), [slow(name, column) for column in MEMBERS.T], rtol=1e-6, atol=1e-12)


def test_worked_out() -> None:
    members = np.array([[0.6, 0.8, 1.0], [1.0, 0.8, 1.0]])  # mean 0.8, 0.8, 1; deviation 0.2, 0, 0
    np.testing.assert_allclose(score("ucb", members), [0.9, 0.8, 1.0])
    np.testing.assert_allclose(score("ei", members), [0.2 / math.sqrt(2 * math.pi), 0.0, 0.2], atol=1e-9)  # g = 0: std * phi(0)
    np.testing.assert_allclose(score("pi", members), [0.5, 0.5, 1.0])
    np.testing.assert_allclose(score("mean", members), [0.8, 0.8, 1.0])
    np.testing.assert_array_equal(score("its", members)[1:], [0.8, 1.0])  # nothing to draw without a deviation


def test_independent_thompson_sampling_draws_from_the_normal_distribution() -> None:
    members, rng = np.array([[1.0, 10.0], [3.0, 10.5]]), np.random.default_rng(0)  # mean 2, 10.25; deviation 1, 0.25
    draws = np.array([ACQUISITIONS["its"](EnsemblePrediction(members), BEST, rng) for _ in range(4000)])
    assert scipy.stats.kstest(draws[:, 0], "norm", args=(2, 1)).pvalue > 0.01
    assert scipy.stats.kstest(draws[:, 1], "norm", args=(10.25, 0.25)).pvalue > 0.01
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.05  # candidates are drawn independently


def test_thompson_sampling_follows_one_member_for_all_candidates() -> None:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        result = ACQUISITIONS["ts"](EnsemblePrediction(MEMBERS), BEST, rng)
        (member,) = np.flatnonzero((result == MEMBERS).all(axis=1))
        drawn.append(member)
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=5)).pvalue > 0.01  # every member as likely


@pytest.mark.parametrize("name", ACQUISITIONS)
@given(
    means=st.lists(st.floats(-3, 3), min_size=2, max_size=8),
    std=st.floats(0.01, 2),
    best=st.floats(-2, 2),
)
@settings(deadline=None)
def test_monotone_in_the_mean(name: str, means: list[float], std: float, best: float) -> None:
    """Candidates whose members differ by a shift alone: the higher the mean, the higher the score."""
    spread = np.array([-1.0, 1.0, 0.5, -0.5])[:, None] * std
    ordered = np.sort(means)
    if name == "its":  # with the same draw for every candidate
        scores = np.array([score(name, value + spread, best)[0] for value in ordered])
    else:
        scores = score(name, ordered[None] + spread, best)
    assert (np.diff(scores) >= -1e-12).all()


@pytest.mark.parametrize("name", ["ei", "pi"])
def test_more_improvement_with_a_lower_best(name: str) -> None:
    assert (score(name, MEMBERS, 0.5) > score(name, MEMBERS, 0.8)).all()


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_members_that_agree_give_numbers_in_the_order_of_the_mean(name: str) -> None:
    means = np.array([-100.0, -1.0, 0.0, 0.8, 1.0, 100.0])
    scores = score(name, np.tile(means, (5, 1)))
    assert np.isfinite(scores).all()
    assert (np.diff(scores) >= 0).all()
    assert scores[-1] > scores[0]


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_shape_type_and_nothing_else_changes(name: str) -> None:
    members = MEMBERS.copy()
    first, second = score(name, members), score(name, members)
    assert first.shape == (40,)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, second)  # the generator is all that is random
    first[:] = -1  # the result is the caller's
    np.testing.assert_array_equal(members, MEMBERS)
    assert score(name, members[:1]).shape == (40,)
    assert score(name, members[:, :0]).shape == (0,)
