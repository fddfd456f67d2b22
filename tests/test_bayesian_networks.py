"""DNGO and BOHAMIANN: what makes each of them the method that it is. n: observations, m: candidates, h: width."""

from typing import Any

import numpy as np
import pytest
from toy_space import PlainSpace, ToySpace

from raynas.errors import ConfigError, OutOfSpaceError
from raynas.history import History, Observation
from raynas.model.predictors.bohamiann import Bohamiann
from raynas.model.predictors.dngo import DNGO
from searchers import Engine, Method, make_method

NAMES = ["dngo", "bohamiann"]
X = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float32)
Y = np.sin(X[:, 0].astype(np.float64)) + X[:, 1]
FAR = X[:10] + 6


def test_dngo_is_bayesian_linear_regression_on_the_last_layer() -> None:
    fitted = DNGO(epochs=20, alpha=2.0, beta=50.0).fit(X, Y, 0)
    basis, values = fitted.network.hidden(X)[0], (Y - Y.mean()) / Y.std()
    assert basis.shape == (25, 50)
    assert np.abs(basis).max() <= 1  # hyperbolic tangents
    kernel = basis @ basis.T / 2.0  # the same as a Gaussian process: alpha^-1 phi phi^T, noise beta^-1
    gain = kernel @ np.linalg.inv(kernel + np.eye(25) / 50.0)
    prediction = fitted.predict(X)
    np.testing.assert_allclose(prediction.mean, gain @ values * Y.std() + Y.mean(), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(prediction.covariance(), (kernel - gain @ kernel) * Y.std() ** 2, atol=1e-7)
    np.testing.assert_allclose(prediction.std**2, prediction.covariance().diagonal(), atol=1e-9)


def test_the_evidence_finds_the_noise() -> None:
    noisy = Y + np.random.default_rng(1).normal(scale=2.0, size=25)
    fixed, fitted = (DNGO(epochs=20, evidence=evidence).fit(X, noisy, 0).predict(X) for evidence in (False, True))
    assert np.abs(fixed.mean - noisy).mean() < np.abs(fitted.mean - noisy).mean()  # which takes noise for signal
    assert np.abs(fitted.mean - Y).mean() < np.abs(fixed.mean - Y).mean()


def test_the_chains_of_bohamiann_keep_what_follows_the_burn_in() -> None:
    settings = Bohamiann(chains=3, width=8, steps=130, burn_in=100, keep_every=10)
    members = settings.fit(X, Y, 0).predict(X).members
    assert members.shape == (9, 25)  # three of each chain
    assert members.std(axis=0).min() > 0


def test_bohamiann_draws_from_the_posterior() -> None:
    """Of a network without hidden weight on the inputs nothing but the mean matters; its posterior is known."""
    flat, values = np.zeros((40, 1), dtype=np.float32), np.random.default_rng(0).normal(size=40)
    members = Bohamiann(layers=1, width=4, steps=6000, burn_in=1000, keep_every=20).fit(flat, values, 0).predict(flat[:1]).members
    assert members.mean() == pytest.approx(values.mean(), abs=0.05)
    assert members.std() == pytest.approx(values.std() / np.sqrt(40), rel=0.3)  # with the variance of 40 observations


@pytest.mark.parametrize("predictor", [DNGO(epochs=100), Bohamiann()], ids=NAMES)
def test_it_is_less_sure_of_what_it_has_not_seen(predictor: Any) -> None:
    fitted = predictor.fit(X, Y, 0)
    near, far = fitted.predict(X), fitted.predict(FAR)
    assert far.std.mean() > 1.5 * near.std.mean()
    assert np.corrcoef(near.mean, Y)[0, 1] > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_predictions_rank_the_candidates(name: str) -> None:
    """The reference code of the comparison averaged them to one number."""
    space, history, rng = ToySpace(5), History(), np.random.default_rng(0)
    for _ in range(60):
        arch = space.sample(rng)
        history.add(Observation(arch, "finished", ((1.0, arch.id.count("a") / 5),)))
    method: Method = make_method(name, {"encoding": "path", "random_share": 1.0})
    proposed = method.propose(space, history, rng, 5).archs
    assert np.mean([arch.id.count("a") for arch in proposed]) > 2.5  # 1.67 of any words
    assert not {arch.id for arch in proposed} & set(history.observed)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Engine(make_method("dngo"), PlainSpace(2)), OutOfSpaceError, "use a path encoding"),
        (lambda: Engine(make_method("bohamiann"), PlainSpace(2)), OutOfSpaceError, "use a path encoding"),
        (lambda: make_method("dngo", {"predictor_options": {"alpha": 0.0}}), ConfigError, "alpha and beta must be positive"),
        (lambda: make_method("dngo", {"predictor_options": {"epochs": 0}}), ConfigError, "epochs must be at least 1"),
        (lambda: make_method("bohamiann", {"predictor_options": {"steps": 900}}), ConfigError, "steps must be at least burn_in"),
        (lambda: make_method("bohamiann", {"predictor_options": {"friction": -1.0}}), ConfigError, "friction must be positive"),
    ],
)
def test_mistakes_are_told_before_a_search_begins(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
