"""What other searches have found, as a prior: what it brings, and that a bad one costs little."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_rows
from toy_space import ToySpace

from raynas.arch import Arch
from raynas.config import RunConfig
from raynas.history import History, Observation
from raynas.model.predictors import GaussianPrediction, make_predictor
from raynas.model.predictors.base import Floats
from raynas.model.predictors.informed import Informed, Shifted, slopes
from raynas.model.ranks import spearman
from raynas.outcome import Limit, Objective
from raynas.run.store import RunStore
from raynas.run.warm_start import other_runs
from raynas.spaces import Cost
from raynas.storage import write_json
from searchers import Bananas, Engine, Evolution, Method, Random

SPACE = ToySpace(6)
ARCHS = list(SPACE.enumerate() or ())
_RNG = np.random.default_rng(0)
WEIGHTS = _RNG.normal(size=(6, 3))


def worth(arch: Arch, weights: Floats = WEIGHTS) -> float:
    """What the letters of a word are worth, each at its place."""
    return float(0.5 + sum(weights[i]["abc".index(letter)] for i, letter in enumerate(arch["word"])) / 40)


def related(arch: Arch) -> float:
    """The same with a little of something else, in other units."""
    return 0.3 * worth(arch) + 0.1 * worth(arch, np.roll(WEIGHTS, 1, axis=1)) ** 2


_SHUFFLED = dict(zip((arch.id for arch in ARCHS), _RNG.permutation([worth(arch) for arch in ARCHS]).tolist(), strict=True))
OPTIONS: dict[str, Any] = {"predictor_options": {"members": 4, "width": 32}}


def search(method: Method, value: Callable[[Arch], float], trials: int, seed: int = 0, prior: list[Observation] | None = None) -> Engine:
    engine = Engine(method, SPACE, seed=seed)
    engine.tell_prior(prior or [])
    for _ in range(trials):
        suggestion = engine.ask()
        assert suggestion is not None
        engine.tell(suggestion.arch, value(suggestion.arch))
    assert engine.problem is None
    return engine


def observed(engine: Engine) -> list[Observation]:
    return list(engine.history.observed.values())


@pytest.fixture(scope="module")
def priors() -> dict[str, list[Observation]]:
    """What searches of the related values and of shuffled ones have found."""
    values: dict[str, Callable[[Arch], float]] = {"related": related, "shuffled": lambda arch: _SHUFFLED[arch.id]}
    return {name: observed(search(Random(), value, 80)) for name, value in values.items()}


# -- what it brings ------------------------------------------------------------------------------------------------------


def test_a_prior_that_is_related_helps_and_one_that_says_nothing_costs_little(priors: dict[str, list[Observation]]) -> None:
    goal = max(ARCHS, key=worth).id

    def took(prior: list[Observation] | None) -> float:
        found = [list(search(Bananas(**OPTIONS), worth, 40, seed, prior).history.observed) for seed in range(4)]
        return float(np.mean([ids.index(goal) if goal in ids else 40 for ids in found]))

    without = took(None)
    assert took(priors["related"]) < 0.8 * without
    assert took(priors["shuffled"]) < 1.3 * without


def test_a_prior_that_is_related_makes_better_predictions(priors: dict[str, list[Observation]]) -> None:
    archs, predictor = [observation.arch for observation in observed(search(Random(), worth, 12))], make_predictor("mlp", {"members": 4})
    models = [
        predictor.fit(SPACE, [o.arch for o in prior], np.array([o.value for o in prior]), 0)
        for prior in (priors["shuffled"], priors["related"])
    ]
    targets, truth = np.array([worth(arch) for arch in archs]), np.array([worth(arch) for arch in ARCHS])
    informed = Informed(predictor, models).fit(SPACE, archs, targets, 0)
    assert [model for _, model in informed.parts] == [models[1]]
    plain = predictor.fit(SPACE, archs, targets, 0)
    assert (spearman(informed.predict(ARCHS).mean, truth) or 0) > (spearman(plain.predict(ARCHS).mean, truth) or 0)


def test_slopes() -> None:
    first, second, noise = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 3)))[0].T  # which say nothing of each other
    assert slopes(np.stack([first, second]), 3 * first + 2 * second + 7) == pytest.approx([3, 2], rel=0.2)
    assert slopes(np.stack([first, first]), 2 * first)[1] == 0  # nothing is left for the second
    halved = slopes(first[None], first + 2 * noise)
    assert 0 < halved[0] < 1
    for told, targets in [(noise, first), (-first, first), (np.ones(50), first), (first, np.ones(50)), (first[:2], first[:2])]:
        assert slopes(told[None], targets).tolist() == [0.0]  # says nothing, the opposite, is constant, or there is too little to tell


def test_a_prediction_that_is_shifted() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 9.0]])
    normal = GaussianPrediction(np.array([0.0, 1.0]), np.array([2.0, 3.0]), lambda: covariance)
    shifted = Shifted(normal, np.array([10.0, 20.0]))
    assert shifted.mean.tolist() == [10.0, 21.0]
    assert shifted.widened(2).std.tolist() == [4.0, 6.0]
    assert shifted.foreseen(0).std == pytest.approx(normal.foreseen(0).std)
    assert shifted.foreseen(0).mean.tolist() == [10.0, 21.0]
    assert shifted.sample(500, np.random.default_rng(0)).mean(axis=0) == pytest.approx([10.0, 21.0], abs=0.5)


# -- in a search ---------------------------------------------------------------------------------------------------------


def test_half_of_the_initial_design_are_the_best_of_all_priors() -> None:
    engine = Engine(Evolution(num_initial=6), SPACE)
    words = iter(("aaaaaa", "bbbbbb", "cccccc", "abcabc"))
    for _ in range(2):
        told = [engine.observation(SPACE.make(next(words)), {"valid_accuracy": value}) for value in (0.1, 0.9)]
        engine.tell_prior([*told, engine.observation(SPACE.make("bbbbbb"), {}, error="no")])
    first = [engine.ask() for _ in range(6)]
    assert [each.origin.by for each in first if each] == ["prior", "initial"] * 3
    assert [each.arch.id for each in first if each][::2] == ["bbbbbb", "abcabc", "aaaaaa"]


def test_a_prior_of_which_all_failed_changes_nothing() -> None:
    engine = Engine(Bananas(), SPACE)
    assert engine.tell_prior([engine.observation(SPACE.make("aaaaaa"), {}, error="no")]) == 0
    assert engine.history.priors == []


def test_the_best_of_a_prior_that_are_beyond_a_limit_are_not_proposed() -> None:
    class Costly(ToySpace):
        def cost(self, arch: Arch) -> Cost:
            return Cost(1000 * (1 + arch.id.count("a")), 100)

    engine = Engine(Random(), Costly(4), objective=Objective(limits=(Limit("parameters", "<=", 2000),)))
    told = [
        Observation(engine.space.from_config({"word": word}), "finished", ((1.0, value),)) for word, value in (("abbb", 0.1), ("aaab", 0.9))
    ]
    engine.tell_prior(told)
    suggestion = engine.ask()
    assert suggestion is not None
    assert suggestion.arch.id == "abbb"


def test_of_several_objectives_the_front_comes_first_and_no_model_learns_of_it() -> None:
    engine = Engine(Bananas(num_initial=2, **OPTIONS), SPACE, objective=Objective.parse(["valid_accuracy", "-latency"]))
    numbers = {"aaaaaa": (0.5, 9.0), "aaabbb": (0.9, 2.0), "bbbbbb": (0.8, 1.0)}
    engine.tell_prior(engine.observation(SPACE.make(w), {"valid_accuracy": a, "latency": t}) for w, (a, t) in numbers.items())
    for i in range(6):
        suggestion = engine.ask()
        assert suggestion is not None
        assert i > 0 or suggestion.arch.id in ("aaabbb", "bbbbbb")
        engine.tell(suggestion.arch, {"valid_accuracy": worth(suggestion.arch), "latency": 1.0 + i})
    assert engine.problem is None


def test_a_restart_and_the_process_that_fits_know_the_priors(priors: dict[str, list[Observation]]) -> None:
    engine = search(Bananas(**OPTIONS), worth, 14, prior=priors["related"])
    again, copy = Engine(Bananas(**OPTIONS), SPACE), History()
    again.load_json(json.loads(json.dumps(engine.to_json())))
    update = engine.history.since(0)
    copy.follow(update)
    assert copy.priors == engine.history.priors
    assert engine.history.since(1).added == [*engine.history.observed.values()]  # a prior is sent once
    for _ in range(5):
        first, second = engine.ask(), again.ask()
        assert first is not None
        assert first == second
        for each in (engine, again):
            each.tell(first.arch, worth(first.arch))


# -- which runs are priors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ({}, {}, ""),
        ({"trainable_options": {"seconds_per_report": 1}}, {"trials": 5}, ""),
        ({"recipe": {"learning_rate": 0.1}}, {}, "other settings of the training"),
        ({}, {"trainable_options": {"batch_size": 8}}, "other settings of the training"),
        ({"dataset": "digits"}, {}, "another data set, digits and not cifar10"),
        (
            {"trainable": "train", "dataset": "digits"},
            {},
            "another data set, digits and not cifar10 and another trainable, train and not lookup",
        ),
    ],
)
def test_what_makes_a_run_a_prior(theirs: dict[str, Any], ours: dict[str, Any], words: str, tmp_path: Path) -> None:
    other, here = str(tmp_path / "other"), str(tmp_path / "here")
    write_json(other, "config.json", {"config": theirs})
    store = RunStore(other)
    run_rows.add(store, 0)
    store.close()
    config = RunConfig(**({"warm_start": [other]} | ours))
    assert [run.differs for run in other_runs(config, here, 3)] == [words]
    assert other_runs(config, here, None)[0].differs == words  # nobody knows how many a full evaluation takes
    assert "another number of epochs, 3 and not 200" in other_runs(config, here, 200)[0].differs
