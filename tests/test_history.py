"""What a search knows."""

import json
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raynas.arch import Arch
from raynas.history import History, Observation
from raynas.outcome import Status


def arch(name: str) -> Arch:
    return Arch.make("toy", name, ops=[name, "x"])


def trial(history: History, name: str, curve: dict[float, float], status: Status = "finished") -> None:
    """A trial that reports `curve` and ends."""
    history.start(arch(name))
    for budget, value in curve.items():
        history.report(name, budget, value)
    history.end(name, status)


def observed_targets(history: History) -> dict[str, float]:
    archs, values = history.targets()
    assert values.shape == (len(archs),)
    return {a.id: float(v) for a, v in zip(archs, values, strict=True)}


def test_a_trial_is_pending_and_then_observed() -> None:
    history = History()
    history.start(arch("a"))
    history.report("a", 1, 0.5)
    assert "a" in history
    assert (list(history.pending), list(history.observed), len(history)) == (["a"], [], 1)
    assert observed_targets(history) == {}  # what is pending has no value yet
    history.report("a", 2, 0.6)
    history.end("a", "finished")
    assert (list(history.pending), list(history.observed), len(history)) == ([], ["a"], 1)
    assert history.observed["a"] == Observation(arch("a"), "finished", ((1, 0.5), (2, 0.6)))
    assert history.observed["a"].value == 0.6


@pytest.mark.parametrize("status", get_args(Status))
def test_every_status(status: Status) -> None:
    history = History()
    trial(history, "a", {1: 0.5}, status)
    assert history.observed["a"].status == status
    failed = status == "failed"
    assert history.observed["a"].value == (-math.inf if failed else 0.5)
    assert observed_targets(history) == ({} if failed else {"a": 0.5})
    assert (history.best() is None) == failed
    assert "a" in history  # also a failed one is not to be tried again


@pytest.mark.parametrize("status", get_args(Status))
def test_without_a_finite_value_a_trial_has_failed(status: Status) -> None:
    history = History()
    trial(history, "a", {1: math.nan, 2: math.inf, 3: -math.inf}, status)
    trial(history, "b", {}, status)
    for name in "ab":
        assert history.observed[name] == Observation(arch(name), "failed", ())
    assert observed_targets(history) == {}


def test_values_that_are_not_finite_are_left_out_of_a_curve() -> None:
    history = History()
    trial(history, "a", {1: 0.5, 2: math.nan, 3: 0.7, 4: math.inf})
    assert history.observed["a"].curve == ((1, 0.5), (3, 0.7))


def test_a_budget_counts_once_and_never_goes_back() -> None:
    history = History()
    history.start(arch("a"))
    for budget, value in [(1, 0.1), (2, 0.2), (2, 0.9), (1, 0.8), (3, 0.3)]:  # a restored trial reports again
        history.report("a", budget, value)
    history.end("a", "finished")
    assert history.observed["a"].curve == ((1, 0.1), (2, 0.2), (3, 0.3))


def test_events_of_unknown_architectures_change_nothing() -> None:
    history = History()
    trial(history, "a", {1: 0.5})
    before = history.to_json()
    for name in ("a", "never seen"):
        history.report(name, 2, 0.9)
        history.end(name, "failed")
        history.withdraw(name)
    assert history.to_json() == before


def test_a_second_result_is_ignored() -> None:
    history = History()
    trial(history, "a", {1: 0.5})
    history.add(Observation(arch("a"), "finished", ((1, 0.9),)))
    trial(history, "a", {1: 0.7})
    assert observed_targets(history) == {"a": 0.5}
    assert not history.pending


def test_an_observation_from_elsewhere_ends_what_is_pending() -> None:
    history = History()
    history.start(arch("a"))
    history.report("a", 1, 0.5)
    history.add(Observation(arch("a"), "finished", ((8, 0.9),)))
    history.end("a", "finished")  # the late end of the trial
    assert not history.pending
    assert [(row.budget, row.status) for row in history.rows()] == [(8, "finished")]
    assert history.observed["a"].curve == ((8, 0.9),)


def test_what_never_ran_is_withdrawn() -> None:
    history = History()
    history.start(arch("a"))
    history.report("a", 1, 0.5)
    history.withdraw("a")
    assert "a" not in history
    assert len(history) == 0
    trial(history, "a", {2: 0.6})
    assert history.observed["a"].curve == ((2, 0.6),)  # nothing is left of the first attempt


def test_the_value_at_a_budget() -> None:
    observation = Observation(arch("a"), "finished", ((1, 0.1), (4, 0.4), (8, 0.8)))
    assert [observation.value_at(budget) for budget in (0.5, 1, 3, 4, 100)] == [None, 0.1, 0.1, 0.4, 0.8]
    assert Observation(arch("a"), "failed", ()).value_at(1) is None


# -- curves --------------------------------------------------------------------------------------------------------------


def test_long_curves_are_thinned() -> None:
    history = History()
    trial(history, "a", {epoch: epoch / 1000 for epoch in range(1, 1001)})
    curve = history.observed["a"].curve
    assert len(curve) == 65
    assert curve[:20] == tuple((epoch, epoch / 1000) for epoch in range(1, 21))  # short runs are kept whole
    assert curve[-1] == (1000, 1.0)  # the last report is always kept


@given(st.lists(st.floats(1, 1e4), min_size=1, max_size=200, unique=True).map(sorted))
@settings(deadline=None)
def test_a_thinned_curve_is_close_to_every_report(budgets: list[float]) -> None:
    history = History()
    trial(history, "a", {budget: budget for budget in budgets})
    observation = history.observed["a"]
    kept = [budget for budget, _ in observation.curve]
    assert kept[0] == budgets[0]
    assert kept[-1] == budgets[-1]
    assert kept == sorted(set(kept))
    assert set(kept) <= set(budgets)
    for budget in budgets:
        near = observation.value_at(budget)
        assert near is not None
        assert near <= budget < 1.1 * near or near == budget
    for first, third in zip(kept, kept[2:-1], strict=False):  # no three within the ratio, but for the last, which is provisional
        assert third >= 1.1 * first


# -- stopped trials ------------------------------------------------------------------------------------------------------


def test_a_stopped_trial_gets_the_median_gain_of_the_finished_ones() -> None:
    history = History()
    trial(history, "a", {1: 0.50, 4: 0.70, 8: 0.80})
    trial(history, "b", {1: 0.40, 4: 0.55, 8: 0.60})
    trial(history, "c", {1: 0.45, 4: 0.65, 8: 0.90})
    trial(history, "stopped at 1", {1: 0.3}, "stopped")
    trial(history, "stopped at 4", {1: 0.3, 4: 0.5}, "stopped")
    trial(history, "failed", {1: 0.9}, "failed")
    assert observed_targets(history) == pytest.approx(
        {
            "a": 0.80,
            "b": 0.60,
            "c": 0.90,
            "stopped at 1": 0.3 + 0.30,  # from budget 1 on the three gained 0.30, 0.20 and 0.45
            "stopped at 4": 0.5 + 0.10,  # from budget 4 on 0.10, 0.05 and 0.25
        }
    )


def test_a_stopped_trial_stays_below_those_that_were_better_and_gained_as_much() -> None:
    history = History()
    trial(history, "a", {1: 0.6, 8: 0.7})
    trial(history, "b", {1: 0.5, 8: 0.6})
    trial(history, "stopped", {1: 0.4}, "stopped")
    targets = observed_targets(history)
    assert targets["stopped"] < targets["b"] < targets["a"]


def test_without_finished_trials_a_stopped_one_keeps_its_value() -> None:
    history = History()
    trial(history, "a", {1: 0.3}, "stopped")
    trial(history, "b", {2: 0.5}, "stopped")
    assert observed_targets(history) == {"a": 0.3, "b": 0.5}


def test_a_trial_that_stopped_before_every_report_of_the_others_keeps_its_value() -> None:
    history = History()
    trial(history, "a", {4: 0.7, 8: 0.8})
    trial(history, "b", {1: 0.3}, "stopped")
    assert observed_targets(history) == {"a": 0.8, "b": 0.3}


def test_the_best_is_a_finished_one_where_there_is_one() -> None:
    history = History()
    trial(history, "a", {1: 0.9}, "stopped")
    trial(history, "b", {1: 0.95}, "failed")
    assert history.best() == history.observed["a"]
    trial(history, "c", {1: 0.1, 8: 0.5})
    trial(history, "d", {1: 0.1, 8: 0.4})
    assert history.best() == history.observed["c"]


def test_targets_come_in_the_order_of_completion() -> None:
    history = History()
    for name in "abc":
        history.start(arch(name))
    for name, value in (("c", 0.3), ("a", 0.1), ("b", 0.2)):
        history.report(name, 1, value)
        history.end(name, "finished")
    archs, values = history.targets()
    assert [a.id for a in archs] == ["c", "a", "b"]
    assert values.tolist() == [0.3, 0.1, 0.2]


def test_targets_of_the_last_ones_only() -> None:
    history = History()
    trial(history, "a", {1: 0.2, 8: 0.9})
    for name, value in (("b", 0.1), ("c", 0.2), ("d", 0.3)):
        trial(history, name, {8: value})
    trial(history, "stopped", {1: 0.4}, "stopped")
    trial(history, "failed", {}, "failed")  # not one of the last
    archs, values = history.targets(last=3)
    assert [a.id for a in archs] == ["c", "d", "stopped"]
    assert values.tolist() == pytest.approx([0.2, 0.3, 0.4 + 0.7])  # the gain is that of all finished trials
    assert [a.id for a in history.targets(last=100)[0]] == ["a", "b", "c", "d", "stopped"]


# -- state ---------------------------------------------------------------------------------------------------------------


def full_history() -> History:
    history = History()
    trial(history, "a", {1: 0.5, 8: 0.8})
    trial(history, "b", {1: 0.3}, "stopped")
    trial(history, "c", {}, "failed")
    trial(history, "d", {1: 0.2}, "failed")
    history.start(arch("e"))
    history.start(arch("f"))
    history.report("f", 2, 0.25)
    return history


def test_json_round_trip() -> None:
    history = full_history()
    again = History.from_json(json.loads(json.dumps(history.to_json(), allow_nan=False)))
    assert again.to_json() == history.to_json()
    assert again.observed == history.observed
    assert list(again.observed) == list(history.observed)
    assert [a.spec for a in again.pending.values()] == [a.spec for a in history.pending.values()]
    for each in (history, again):  # both go on in the same way
        each.report("f", 1, 0.9)
        each.report("f", 4, 0.5)
        each.end("f", "finished")
    assert again.observed["f"] == history.observed["f"] == Observation(arch("f"), "finished", ((2, 0.25), (4, 0.5)))


def test_a_snapshot_is_independent() -> None:
    history = full_history()
    before = history.to_json()
    copied = history.copy()
    for changed, other in ((history, copied), (copied, History.from_json(before))):
        changed.report("f", 9, 0.9)
        changed.end("f", "finished")
        changed.withdraw("e")
        trial(changed, "g", {1: 0.1})
        assert other.to_json() == before
    assert isinstance(copied.observed["a"].curve, tuple)  # shared, and nothing in it can be changed


def test_targets_are_fresh_arrays() -> None:
    history = full_history()
    archs, values = history.targets()
    archs.clear()
    values[:] = np.nan
    assert observed_targets(history) == pytest.approx({"a": 0.8, "b": 0.6})
