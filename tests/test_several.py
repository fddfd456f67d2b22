"""Several objectives, and limits that only trials tell, by models of each."""

import json

import numpy as np
import pytest
from toy_space import ToySpace

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.front import hypervolume, non_dominated
from raynas.history import History
from raynas.outcome import Objective
from searchers import Bananas, Engine, Method, Random
from searchers.several import Points

SPACE = ToySpace(6)
BOTH = Objective.parse(["valid_accuracy", "-latency"])


def measured(arch: Arch) -> dict[str, float]:
    """The more `a` the better, and the slower; `b` is worth it at the beginning of a word."""
    word = arch.id
    return {"valid_accuracy": (word.count("a") + 0.7 * word[:3].count("b")) / 6, "latency": 1 + 3.0 * word.count("a") + word.count("b")}


def run(method: Method, objective: Objective, trials: int, seed: int = 0) -> Engine:
    search = Engine(method, SPACE, objective=objective, seed=seed)
    for _ in range(trials):
        suggestion = search.ask()
        assert suggestion is not None
        search.tell(suggestion.arch, measured(suggestion.arch))
    assert search.problem is None
    return search


def volume(search: Engine) -> float:
    return hypervolume(search.history.known().vectors, np.array([0.0, -20.0]))


def test_models_of_two_objectives_find_more_than_chance() -> None:
    ours, chance = ([volume(run(method, BOTH, 40, seed)) for seed in range(3)] for method in (Bananas(), Random()))
    assert np.mean(ours) > np.mean(chance)


def test_the_first_objective_may_be_a_cost_and_a_third_one_none() -> None:
    search = run(Bananas(), Objective.parse(["-parameters", "valid_accuracy", "-latency"]), 20)
    proposed = search.method.propose(SPACE, search.history, np.random.default_rng(0), 4)
    assert [origin.by for origin in proposed.origins] == ["model"] * 4
    assert proposed.expected == [-float(SPACE.cost(arch).parameters) for arch in proposed.archs]  # computed, not predicted


@pytest.mark.parametrize("entries", [["valid_accuracy"], ["valid_accuracy", "-flops"]])
def test_limits_on_what_is_measured_are_learned(entries: list[str]) -> None:
    objective = Objective.parse(entries, ["latency<=9"])
    search = run(Bananas(), objective, 60)
    kept = [measured(o.arch)["latency"] <= 9 for o in search.history.observed.values()]
    assert np.mean(kept[20:]) > np.mean([measured(arch)["latency"] <= 9 for arch in SPACE.enumerate()])
    best = max(measured(arch)["valid_accuracy"] for arch in SPACE.enumerate() if measured(arch)["latency"] <= 9)
    recommended = search.recommend()
    assert recommended is not None
    assert measured(recommended)["latency"] <= 9
    assert max(measured(o.arch)["valid_accuracy"] for o in search.history.observed.values() if not o.excess) == pytest.approx(best)


def test_where_nothing_keeps_a_limit_yet_the_search_goes_towards_it() -> None:
    search = run(Bananas(), Objective.parse(["valid_accuracy"], ["latency<=1"]), 40)
    latencies = [measured(o.arch)["latency"] for o in search.history.observed.values()]
    assert min(latencies) < min(latencies[:10])
    assert np.mean(latencies[20:]) < np.mean(latencies[:10])


def test_results_that_are_all_the_same_end_nothing() -> None:
    search = Engine(Bananas(num_initial=3), SPACE, objective=BOTH)
    for _ in range(12):
        suggestion = search.ask()
        assert suggestion is not None
        search.tell(suggestion.arch, {"valid_accuracy": 0.5, "latency": 1.0})
    assert search.problem is None


def test_the_same_seed_gives_the_same_suggestions_after_a_restart() -> None:
    search = run(Bananas(), BOTH, 15)
    again = Engine(Bananas(), SPACE, objective=BOTH)
    again.load_json(json.loads(json.dumps(search.to_json())))
    for _ in range(5):
        first, second = search.ask(), again.ask()
        assert first is not None
        assert first == second
        for each in (search, again):
            each.tell(first.arch, measured(first.arch))


def test_the_process_that_fits_knows_the_objective() -> None:
    search, copy = run(Bananas(), BOTH, 12), History()
    copy.follow(search.history.since(0))
    assert copy.objective == BOTH


def test_promise_is_the_mean_gain_of_draws_within_limits() -> None:
    rng = np.random.default_rng(0)
    objectives, margins, front = rng.random((4, 3, 2)), np.array([[[1.0], [1.0], [-1.0]]] * 4), rng.random((3, 2))
    zero = np.zeros(2)
    gains = [[hypervolume(np.vstack([front, objectives[s, i]]), zero) - hypervolume(front, zero) for i in range(2)] for s in range(4)]
    promise = Points(objectives, margins).promise(front[non_dominated(front)])
    np.testing.assert_allclose(promise[:2], np.mean(gains, axis=0), atol=1e-5)
    assert promise[2] < 0


def test_in_a_direction_the_least_objective_says_how_far_something_reaches() -> None:
    points = Points(np.array([[[0.5, 0.8], [0.9, 0.3], [1.0, 1.0]]]), np.array([[[1.0], [0.0], [-1.0]]]))
    np.testing.assert_allclose(points.along(np.array([0.5, 1.0]))[:2], [0.8, 0.3])
    assert points.along(np.array([0.5, 1.0]))[2] < 0


def test_draws_must_be_some() -> None:
    with pytest.raises(ConfigError, match="draws must be at least 1, not 0"):
        Bananas(draws=0)
