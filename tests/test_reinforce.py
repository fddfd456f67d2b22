"""REINFORCE: its gradient, its baseline, and that each result moves the policy once."""

import numpy as np
import pytest
from searcher_contract import ToySpace

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.spaces import make_space
from searchers import Engine, Proposal, Reinforce


def told(history: History, arch: Arch, value: float) -> None:
    history.start(arch)
    history.end(arch.id, "finished", 1.0, (value,))


def proposed(space: ToySpace, history: History, method: Reinforce | None = None) -> Proposal:
    proposal = (method or Reinforce()).propose(space, history, np.random.default_rng(0), 1)
    history.memory = proposal.memory
    return proposal


def test_a_step_is_the_advantage_over_a_moving_average_times_the_gradient() -> None:
    space, history = ToySpace(2), History()
    told(history, space.make("ab"), 0.4)
    assert proposed(space, history).memory["logits"] == [[0.0] * 3] * 2  # the first result is the baseline itself
    told(history, space.make("ca"), 0.9)
    baseline = (0.9 * 0.1 * 0.4 + 0.1 * 0.9) / (0.9 * 0.1 + 0.1)  # to which the value belongs already
    expected = 0.1 * (0.9 - baseline) * np.array([[-1 / 3, -1 / 3, 2 / 3], [2 / 3, -1 / 3, -1 / 3]])
    assert proposed(space, history).memory["logits"] == pytest.approx(expected)
    assert proposed(space, history).memory["logits"] == pytest.approx(expected)  # nothing new, no step


def test_a_failure_teaches_nothing_and_pending_ones_are_not_drawn_again() -> None:
    space, history = ToySpace(2), History()
    for _ in range(9):
        (arch,) = proposed(space, history).archs
        assert arch.id not in history
        history.start(arch)
    history.end(arch.id, "failed")
    assert history.memory["learned"] == []
    assert not proposed(space, history).archs


def test_the_drawn_description_is_learned_not_the_canonical_one() -> None:
    space = make_space("nasbench101")
    search = Engine(Reinforce(), space)
    for _ in range(20):
        suggestion = search.ask()
        assert suggestion is not None
        drawn = search.history.memory and search.history.memory["drawn"].get(suggestion.arch.id)
        assert drawn is None or space.from_adjacency(drawn) == suggestion.arch
        search.tell(suggestion.arch, 0.5)
    assert search.history.memory["drawn"].keys() == {suggestion.arch.id}


def test_the_policy_finds_what_is_good() -> None:
    search = Engine(Reinforce(learning_rate=2.0), ToySpace(8, listed=False))
    found = []
    for _ in range(100):
        suggestion = search.ask()
        assert suggestion is not None
        found.append(suggestion.arch.id.count("a") / 8)
        search.tell(suggestion.arch, found[-1])
    assert np.mean(found[50:]) > np.mean(found[:10]) + 0.2


def test_wrong_settings_are_told() -> None:
    for options in ({"learning_rate": 0.0}, {"momentum": 1.0}):
        with pytest.raises(ConfigError, match="learning_rate must be positive"):
            Reinforce(**options)
