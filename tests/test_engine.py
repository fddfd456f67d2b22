"""Ask and tell without Ray: the loop around a method, what it learns from, and where it is asked."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import numpy as np
import pytest
from searcher_contract import ToySpace

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History, Observation
from raynas.outcome import Metric, Objective
from raynas.spaces import SearchSpace, make_space
from searchers import TPE, Bananas, Engine, Evolution, FunctionMethod, Method, Proposal, Random, make_engine, make_method

QUICK: dict[str, Any] = {"encoding": "path", "pool": 40, "predictor_options": {"members": 2, "layers": 1, "width": 8, "epochs": 3}}


def asked(search: Engine) -> Arch:
    suggestion = search.ask()
    assert suggestion is not None
    return suggestion.arch


def value(arch: Arch) -> float:
    return arch.id.count("a") / len(arch.id)


# -- plain use -----------------------------------------------------------------------------------------------------------


def test_a_search_needs_no_ray() -> None:
    code = """
import sys
sys.modules["ray"] = None  # any import of it fails
from searchers import Bananas, Engine, Evolution, Random
for method in (Bananas(pool=40, predictor_options={"epochs": 3}), Evolution(), Random()):
    search = Engine(method, "nasbench201", max_budget=200)
    for i in range(20):
        arch = search.ask().arch
        search.report(arch, {"valid_accuracy": 0.5, "epoch": 100})
        search.tell(arch, {"valid_accuracy": arch.id.count("nor_conv") / 6, "epoch": 200})
    assert len(search.history.observed) == 20 and search.recommend() is not None
    print(type(method).__name__, len(search.refits))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["Evolution 0", "Random 0"]


def test_a_number_is_a_result() -> None:
    search = Engine(Random(), ToySpace(4), max_budget=8)
    first, second, third = asked(search), asked(search), ToySpace(4).make("cccc")
    outcomes = (
        search.tell(first, 0.5),
        search.tell(second.id, {"valid_accuracy": 0.25}),
        search.tell(third, {"valid_accuracy": 0.1, "epoch": 4}),
    )
    assert [outcome and (outcome.status, outcome.budget) for outcome in outcomes] == [("finished", 8), ("finished", 8), ("stopped", 4)]
    assert search.tell("never seen", 0.5) is None
    assert search.recommend() == first
    failed = search.tell(asked(search), error="it broke")
    assert failed is not None
    assert (failed.status, failed.error) == ("failed", "it broke")


def test_methods_are_values() -> None:
    assert Bananas(pool=7) == Bananas(pool=7) != Bananas()
    with pytest.raises(FrozenInstanceError):
        Evolution().population = 3  # type: ignore[misc]
    space, history = ToySpace(4), History()
    for word in ("aaaa", "abca", "cccc"):
        history.add(Observation(space.make(word), "finished", ((1.0, 0.5),)))
    before = json.dumps(history.to_json())
    for method in (Bananas(**QUICK), Evolution(), Random()):
        first, again = (method.propose(space, history, np.random.default_rng(3), 5) for _ in range(2))
        assert first == again
        assert len(first.archs) == 5
    assert json.dumps(history.to_json()) == before


def test_what_is_no_method_is_refused() -> None:
    for name, message in (("collections:Counter", "must be a subclass of searchers.Method"), ("searchers:Method", "it lacks propose")):
        with pytest.raises(ConfigError, match=message):
            make_method(name)
    with pytest.raises(ConfigError, match="points_to_evaluate takes a list"):
        make_engine("random", ToySpace(2), {"points_to_evaluate": "abc"})
    with pytest.raises(ConfigError, match="an architecture is given as JSON"):
        make_engine("random", ToySpace(2), {"points_to_evaluate": ["abc"]})


# -- results from elsewhere ----------------------------------------------------------------------------------------------


def test_one_fit_sees_all_that_is_told_at_once() -> None:
    search = Engine(Bananas(**QUICK), ToySpace(6), fitting="thread")
    archs = list(ToySpace(6).enumerate() or ())[:100]
    search.tell_many(search.observation(arch, {"valid_accuracy": value(arch)}) for arch in archs)
    asked(search)
    search.wait()
    assert [refit.observations for refit in search.refits] == [100]
    known = {arch.id for arch in archs}
    assert not known & {asked(search).id for _ in range(20)}


def test_observations_keep_curves_and_signs() -> None:
    search = Engine(Random(), ToySpace(2), objective=Objective((Metric("loss", "min"),)), max_budget=8)
    arch = ToySpace(2).make("ab")
    finished = search.observation(arch, {"loss": 0.5, "epoch": 8}, [(2, 0.9), (4, float("nan")), (8, 0.5)])
    assert (finished.status, finished.curve) == ("finished", ((2.0, -0.9), (8.0, -0.5)))
    assert search.observation(arch, {"loss": 0.7, "epoch": 4}).status == "stopped"
    assert search.observation(arch, {"epoch": 4}).status == "failed"
    assert search.observation(arch, {"loss": 0.7, "epoch": 8}, error="no").status == "failed"


# -- objectives and limits -----------------------------------------------------------------------------------------------

TWO = Objective((Metric("valid_accuracy", "max"), Metric("latency", "min")))


def test_evolution_prefers_what_fewest_dominate() -> None:
    space = ToySpace(6)
    search = Engine(Evolution(population=4, tournament=200), space, objective=TWO)
    for word, accuracy, latency in (("aaaaaa", 0.9, 5.0), ("bbbbbb", 0.5, 1.0), ("cccccc", 0.4, 6.0), ("abcabc", 0.4, 2.0)):
        search.tell(space.make(word), {"valid_accuracy": accuracy, "latency": latency})
    children = search.method.propose(space, search.history, np.random.default_rng(0), 10).archs
    for child in children:  # of the two that nothing dominates
        assert min(sum(a != b for a, b in zip(child.id, parent, strict=True)) for parent in ("aaaaaa", "bbbbbb")) == 1
    best = search.history.best()
    assert best is not None
    assert (best.arch.id, best.merit.vector) == ("aaaaaa", (0.9, -5.0))


def test_what_keeps_the_limits_wins() -> None:
    space, objective = ToySpace(6), Objective.parse(["valid_accuracy"], ["latency<=4"])
    search = Engine(Evolution(population=3, tournament=100), space, objective=objective)
    for word, accuracy, latency in (("aaaaaa", 0.9, 5.0), ("bbbbbb", 0.5, 1.0), ("cccccc", 0.8, 8.0)):
        search.tell(space.make(word), {"valid_accuracy": accuracy, "latency": latency})
    children = search.method.propose(space, search.history, np.random.default_rng(0), 8).archs
    assert [sum(a != b for a, b in zip(child.id, "bbbbbb", strict=True)) for child in children] == [1] * 8
    recommended = search.recommend()
    assert recommended is not None
    assert recommended.id == "bbbbbb"
    outcome = search.tell(space.make("abcabc"), {"valid_accuracy": 0.9})
    assert outcome is not None
    assert outcome.error == "the last report has no latency; it has valid_accuracy"


def test_methods_of_one_objective_say_so() -> None:
    with pytest.raises(ConfigError, match="TPE optimises one objective, not 2; use bananas, evolution or random"):
        Engine(TPE(), objective=TWO)
    with pytest.raises(ConfigError, match="TPE keeps limits on parameters and flops only"):
        Engine(TPE(), objective=Objective.parse([], ["latency<=4"]))
    with pytest.raises(ConfigError, match="Bananas takes up to 3 objectives, not 4; use evolution or random for more"):
        Engine(Bananas(), objective=Objective.parse(["a", "b", "c", "d"]))


# -- budgets and memory --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Halving(Method):
    """Evaluates words with a budget of 2, then the best half of them with 8; counts how often it was asked."""

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        asked = (history.memory or 0) + 1
        stopped = sorted((o for o in history.observed.values() if o.status == "stopped"), key=lambda o: -o.value)
        if len(history.observed) < 5:
            return Proposal([space.sample(rng) for _ in range(50)], budgets=[2.0] * 50, memory=asked)
        archs = [o.arch for o in stopped[:2]]
        return Proposal(archs, [o.value for o in stopped[:2]], [8.0] * 2, asked)


def test_a_proposal_may_name_a_budget_and_come_again_with_more() -> None:
    search = Engine(Halving(num_initial=1), ToySpace(4), max_budget=8)
    search.tell(asked(search), {"valid_accuracy": 0.0, "epoch": 8})
    budgets: list[tuple[str, float | None]] = []
    for _ in range(6):
        suggestion = search.ask()
        assert suggestion is not None
        budgets.append((suggestion.arch.id, suggestion.budget))
        search.tell(suggestion.arch, {"valid_accuracy": value(suggestion.arch), "epoch": suggestion.budget})
    assert [budget for _, budget in budgets] == [2, 2, 2, 2, 8, 8]
    words = [word for word, _ in budgets]
    assert sorted((w.count("a") for w in words[:4]), reverse=True)[:2] == sorted((w.count("a") for w in words[4:]), reverse=True)
    assert set(words[4:]) <= set(words[:4])
    assert [search.history.observed[word].status for word in words[4:]] == ["finished"] * 2
    assert len(search.history.observed) == 5
    assert search.history.memory >= 2


def test_memory_survives_a_restart() -> None:
    search = Engine(Halving(num_initial=1), ToySpace(4), max_budget=8)
    search.tell(asked(search), 0.5)
    search.tell(asked(search), 0.5)
    assert search.history.memory == 1
    restored = Engine(Halving(num_initial=1), ToySpace(4), max_budget=8)
    restored.load_json(json.loads(json.dumps(search.to_json())))
    for each in (search, restored):
        each.ask()
    assert restored.history.memory == search.history.memory == 2
    assert restored.to_json() == search.to_json()


class NoGain:
    """Takes the last value of a stopped trial for its final one."""

    def add(self, finished: Observation) -> None:
        pass

    def gain(self, budget: float) -> float:
        return 0.0


def told_targets(space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
    return Proposal([], memory=history.targets()[1].tolist())


@dataclass(frozen=True, kw_only=True)
class Uncarried(FunctionMethod):
    carry = NoGain


@pytest.mark.parametrize(("kind", "carried"), [(FunctionMethod, 0.6), (Uncarried, 0.2)])
def test_the_rule_that_carries_stopped_trials_can_be_replaced(kind: type[FunctionMethod], carried: float) -> None:
    search = Engine(kind(function=told_targets, num_initial=1), ToySpace(4), max_budget=8)
    for word, curve in (("aaaa", {2: 0.3, 8: 0.7}), ("bbbb", {2: 0.2})):
        for budget, reached in curve.items():
            search.report(search.space.from_config({"word": word}), {"valid_accuracy": reached, "epoch": budget})
        search.tell(ToySpace(4).make(word), {"valid_accuracy": reached, "epoch": budget})
    search.ask()
    assert search.history.memory == pytest.approx([0.7, carried])
    restored = Engine(kind(function=told_targets, num_initial=1), ToySpace(4), max_budget=8)
    restored.load_json(search.to_json())
    assert restored.history.targets()[1].tolist() == pytest.approx([0.7, carried])


# -- limits on what is known beforehand ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Random(), Evolution(), Bananas(num_initial=4, pool=40, predictor_options={"epochs": 3})])
def test_proposals_keep_limits_on_cost(method: Method) -> None:
    search = Engine(method, "nasbench101", objective=Objective.parse([], ["parameters<=3.5e6", "flops >= 2e8"]), max_budget=108)
    for _ in range(30):
        arch = asked(search)
        cost = search.space.cost(arch)
        assert cost.parameters <= 3.5e6
        assert cost.flops >= 2e8
        search.tell(arch, 0.9)
    assert search.space.contains(arch)


def test_a_listed_space_ends_at_its_limits() -> None:
    space = make_space("nasbench201")
    search = Engine(Evolution(num_initial=2), space, objective=Objective.parse([], ["parameters<=74e3"]))
    found = set()
    while (suggestion := search.ask()) is not None:
        found.add(suggestion.arch.id)
        search.tell(suggestion.arch, 0.5)
    assert found == {arch.id for arch in space.enumerate() or () if space.cost(arch).parameters <= 74e3}
    assert search.exhausted


def test_limits_that_nothing_keeps() -> None:
    with pytest.raises(ConfigError, match=r"no architecture of nasbench201 was found within parameters<=1000: .* widen the limits"):
        Engine(Random(), objective=Objective.parse([], ["parameters<=1000"]))


# -- what the end of an evaluation says ----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_budget", [None, 8])
def test_the_last_value_counts(max_budget: float | None) -> None:
    search = Engine(Random(), ToySpace(4), max_budget=max_budget)
    plain, curve, again = (ToySpace(4).make(word) for word in ("aaaa", "bbbb", "cccc"))
    search.report(plain, {"valid_accuracy": 0.5})
    for epoch, reached in ((1, 0.1), (2, 0.2), (3, 0.3)):
        search.report(curve, {"valid_accuracy": reached, "epoch": epoch})
    search.report(again, {"valid_accuracy": 0.1, "epoch": 8})
    for arch in (plain, curve):
        search.tell(arch, {"valid_accuracy": 0.9})
    search.tell(again, {"valid_accuracy": 0.9, "epoch": 8})
    assert [search.history.observed[arch.id].value for arch in (plain, curve, again)] == [0.9] * 3
    assert {o.status for o in search.history.observed.values()} == {"finished"}


def test_a_cost_may_be_what_is_optimised() -> None:
    search = Engine(Evolution(num_initial=5), "nasbench201", objective=Objective.parse(["-parameters"]), max_budget=200)
    for _ in range(40):
        arch = asked(search)
        outcome = search.tell(arch, {"valid_accuracy": 0.5, "epoch": 200})
        assert outcome is not None
        assert search.history.observed[arch.id].status == outcome.status == "finished"
    recommended = search.recommend()
    assert recommended is not None
    assert search.space.cost(recommended).parameters == min(search.space.cost(o.arch).parameters for o in search.history.observed.values())


def test_a_good_result_is_not_lost_by_a_later_failure() -> None:
    search = Engine(Random(), ToySpace(4), max_budget=8)
    arch = ToySpace(4).make("aaaa")
    search.tell(arch, {"valid_accuracy": 0.9, "epoch": 4})
    search.report(arch, {"valid_accuracy": 0.95, "epoch": 6})  # it goes on
    search.tell(arch, error="its node was lost")
    assert search.history.observed["aaaa"].value == 0.9
    search.tell(arch, {"valid_accuracy": 0.97, "epoch": 8})
    assert (search.history.observed["aaaa"].value, search.history.observed["aaaa"].status) == (0.97, "finished")


@dataclass(frozen=True, kw_only=True)
class Careless(Method):
    """Returns what is none of its business to return."""

    kind: str

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        wrong: dict[str, Any] = {"list": [space.sample(rng)], "dicts": Proposal([{}]), "stranger": Proposal([ToySpace(2).make("aa")])}  # type: ignore[list-item]
        return wrong[self.kind]  # type: ignore[no-any-return]

    def recommend(self, space: SearchSpace, history: History) -> Arch | None:
        raise RuntimeError("no idea")


@pytest.mark.parametrize("kind", ["list", "dicts", "stranger"])
def test_a_careless_method_does_not_end_the_search(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    search = Engine(Careless(kind=kind, num_initial=2), ToySpace(4))
    for _ in range(5):
        search.tell(asked(search), 0.5)
    assert "Careless failed to propose" in caplog.text
    assert search.recommend() is not None
    assert "Careless failed to recommend; the best observed architecture is" in caplog.text


def test_observations_have_a_value_for_each_objective() -> None:
    search = Engine(Random(), ToySpace(2), objective=TWO)
    with pytest.raises(ConfigError, match="must have a value for each of valid_accuracy, latency"):
        search.tell_many([Observation(ToySpace(2).make("aa"), "finished", ((1.0, 0.5),))])


# -- long searches ---------------------------------------------------------------------------------------------------------


def test_a_long_search_refits_more_rarely() -> None:
    method = Bananas()
    assert [method.batch(n) for n in (10, 40, 1000, 1099, 1100, 5000, 10_000)] == [3, 10, 10, 10, 11, 50, 100]
    assert Random().batch(5000) == 1
    fits, at = 0, 1000
    while at < 10_000:
        fits, at = fits + 1, at + method.batch(at)
    assert fits == pytest.approx(100 * np.log(10), rel=0.05)


def test_bananas_finds_the_last_ones_of_a_listed_space() -> None:
    space, history = ToySpace(8), History()
    archs = list(space.enumerate() or ())
    for arch in archs[:-3]:
        history.add(Observation(arch, "finished", ((1.0, value(arch)),)))
    proposal = Bananas(**QUICK).propose(space, history, np.random.default_rng(0), 10)
    last = {arch.id for arch in archs[-3:]}  # far from the best, and too few among 6,561 to be drawn
    assert {arch.id for arch in proposal.archs} == last
