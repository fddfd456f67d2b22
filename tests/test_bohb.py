"""BOHB: its densities, the budget that its model is of, and a search under HyperBand."""

from itertools import product

import numpy as np
import pytest
from searcher_contract import ToySpace

from raynas.errors import ConfigError
from raynas.history import History
from searchers import BOHB
from searchers.bohb import Density

SPACE = ToySpace(4)


def reported(words: list[str], budget: float, history: History | None = None) -> History:
    """Results whose value is the share of `a`, turned round at small budgets."""
    history = history or History()
    for word in words:
        history.start(SPACE.make(word))
        history.report(word, budget, (word.count("a") if budget > 1 else -word.count("a")) / 4)
    return history


WORDS = ["".join(word) for word in product("abc", repeat=4)]


def test_a_density_is_one_over_all_values_and_the_mean_of_kernels() -> None:
    points, sizes = np.array([[0, 1], [2, 1], [0, 1]]), np.array([3, 2])
    density = Density.of(points, sizes, 0.05)
    assert density.bandwidths == pytest.approx([min(1.06 * points[:, 0].std() * 3 ** (-1 / 6), 2 / 3), 0.05])
    every = np.array(list(product(range(3), range(2))))
    assert density.at(every).sum() == pytest.approx(1)
    h, k = density.bandwidths
    assert density.at(np.array([[0, 0]])) == pytest.approx([(2 * (1 - h) + h / 2) / 3 * k])


def test_the_model_is_of_the_largest_budget_with_enough_results() -> None:
    history = reported(WORDS[:30], 1.0)
    assert BOHB()._model(SPACE, reported(WORDS[:9], 1.0)) is None  # 5 good and 5 others are needed
    low = BOHB()._model(SPACE, history)
    assert low is not None
    assert (len(low.good.points), len(low.bad.points)) == (5, 25)
    assert (low.good.points == 0).mean() < (low.bad.points == 0).mean()  # those of the small budget, which are wrong
    high = BOHB()._model(SPACE, reported(WORDS[:20], 9.0, history))  # running trials count
    assert high is not None
    assert (len(high.good.points), len(high.bad.points)) == (5, 15)
    assert (high.good.points == 0).mean() > (high.bad.points == 0).mean()
    for word in WORDS[:15]:
        history.end(word, "failed")
    fewer = BOHB()._model(SPACE, history)
    assert fewer is not None
    assert len(fewer.bad.points) == 10  # of the small one again, without what failed


def test_a_third_is_random_and_the_rest_is_like_the_good_ones() -> None:
    history = reported(WORDS[27:60], 9.0)
    by: dict[str, list[int]] = {"model": [], "random": []}
    for seed in range(90):
        proposal = BOHB().propose(SPACE, history, np.random.default_rng(seed), 1)
        by[proposal.origins[0].by].append(proposal.archs[0].id.count("a"))
    assert 15 <= len(by["random"]) <= 45
    assert np.mean(by["model"]) > np.mean(by["random"]) + 0.5


def test_wrong_settings_are_told() -> None:
    for options in ({"random_fraction": 2.0}, {"top_percent": 0}, {"min_bandwidth": 0.0}, {"num_samples": 0}, {"min_points": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            BOHB(**options)
