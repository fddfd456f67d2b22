"""The one rule for how an evaluation ended and what is best."""

import math
from typing import Any

import numpy as np
import pytest

from raynas.errors import ConfigError, UnknownNameError
from raynas.history import Observation
from raynas.outcome import METRICS, Limit, Objective, Outcome, as_number, declare, excess_of, measured
from raynas.spaces import make_space

ONE = Objective()


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (np.float32(0.5), 0.5),
        (np.array(0.25), 0.25),
        (True, None),
        ("0.9", None),
        (None, None),
        (math.nan, None),
        (math.inf, None),
        (np.float64("-inf"), None),
        (np.array([0.5]), None),
        ([0.5], None),
        (10**400, None),
    ],
)
def test_what_is_a_number(value: Any, number: float | None) -> None:
    assert as_number(value) == number


def test_what_a_report_measures() -> None:
    report = {"valid_accuracy": 0.5, "latency": np.float32(2.5), "note": "x", "done": True, "epoch": 3, "time_total_s": 7.0, "f1": math.nan}
    assert measured(report) == {"valid_accuracy": 0.5, "latency": 2.5}


@pytest.mark.parametrize(
    ("report", "max_budget", "status", "error"),
    [
        ({"valid_accuracy": 0.5, "epoch": 8}, 8, "finished", None),
        ({"valid_accuracy": 0.5, "epoch": 4}, 8, "stopped", None),
        ({"valid_accuracy": 0.5, "epoch": 4}, None, "finished", None),
        ({"valid_accuracy": 0.5, "training_iteration": 4}, 8, "stopped", None),
        ({"valid_accuracy": 0.5}, 8, "finished", None),  # a report that tells no budget
        ({"accuracy": 0.5, "epoch": 8, "pid": 3}, 8, "failed", "the last report has no valid_accuracy; it has accuracy, epoch"),
        ({}, 8, "failed", "the last report has no valid_accuracy; it has nothing"),
        ({"valid_accuracy": math.inf, "epoch": 8}, 8, "failed", "valid_accuracy is inf, not a finite number"),
        ({"valid_accuracy": math.nan, "epoch": 8}, 8, "failed", "valid_accuracy is nan, not a finite number"),
        ({"valid_accuracy": "0.9", "epoch": 8}, 8, "failed", "valid_accuracy is '0.9', not a finite number"),
        (
            {"valid_accuracy": 93.1, "epoch": 8},
            8,
            "failed",
            "valid_accuracy = 93.1 is outside of [0, 1]: accuracies are fractions",
        ),
        ({"valid_accuracy": -0.1, "epoch": 8}, 8, "failed", "valid_accuracy = -0.1 is outside"),
    ],
)
def test_how_an_evaluation_ended(report: dict[str, Any], max_budget: float | None, status: str, error: str | None) -> None:
    outcome = ONE.judge(report, max_budget)
    assert outcome.status == status
    assert (outcome.error or "").startswith(error or "")
    assert (outcome.error is None) == (error is None)
    assert (ONE.merit(outcome) is None) == (status == "failed")


def test_an_error_is_a_failure_whatever_was_reported() -> None:
    outcome = ONE.judge({"valid_accuracy": 0.5, "latency": 3.0, "epoch": 8}, 8, error="RuntimeError: no")
    assert outcome == Outcome("failed", 8, {"valid_accuracy": 0.5, "latency": 3.0}, "RuntimeError: no")


def test_a_metric_may_be_declared_otherwise() -> None:
    declared = declare({"valid_accuracy": {"high": 100, "unit": "percent"}, "latency": {"direction": "min", "unit": "ms"}})
    assert Objective.parse([], [], declared).judge({"valid_accuracy": 93.1, "epoch": 1}).status == "finished"
    assert Objective.parse(["latency"], [], declared).vector({"latency": 3}) == (-3.0,)
    assert METRICS["valid_accuracy"].high == 1
    for wrong, error, message in (
        ({"latency": {"direktion": "min"}}, UnknownNameError, "did you mean 'direction'"),
        ({"latency": {"direction": "down"}}, ConfigError, "must be max or min, not 'down'"),
        ({"latency": {"high": "many"}}, ConfigError, "metrics.latency.high must be a number"),
        ({"latency": "min"}, ConfigError, r"as in metrics.latency.direction=min"),
    ):
        with pytest.raises(error, match=message):
            declare(wrong)  # type: ignore[arg-type]


def test_objectives_in_words() -> None:
    objective = Objective.parse(["valid_accuracy", "-latency", "f1"], ["parameters <= 3.5e6", "f1>=0.5"])
    assert [(metric.name, metric.direction) for metric in objective.metrics] == [
        ("valid_accuracy", "max"),
        ("latency", "min"),
        ("f1", "max"),
    ]
    assert objective.vector({"valid_accuracy": 0.9, "latency": 4, "f1": 0.6}) == (0.9, -4, 0.6)
    assert objective.vector({"valid_accuracy": 0.9, "latency": 4}) is None
    assert excess_of(objective.over({"parameters": 7e6, "f1": 0.5})) == pytest.approx(1.0)
    assert excess_of(objective.over({"parameters": 3.5e6, "f1": 0.25})) == pytest.approx(0.5)
    assert objective.known_excess({"parameters": 7e6, "flops": 1.0}) == pytest.approx(1.0)
    for entries, limits, message in (
        (["valid_accuracy", "-valid_accuracy"], [], "may occur once"),
        (["test_accuracy"], [], "a search must not see it"),
        ([], ["test_accuracy>=0.9"], "a search must not see it"),
        (["-"], [], "with a minus to minimise it"),
        ([], ["parameters<3"], "METRIC<=NUMBER"),
        ([], ["parameters<=many"], "METRIC<=NUMBER"),
    ):
        with pytest.raises(ConfigError, match=message):
            Objective.parse(entries, limits)
    assert Limit.parse("latency<=8") == Limit("latency", "<=", 8.0)


def test_costs_take_the_place_of_what_is_reported() -> None:
    objective = Objective.parse([], ["parameters<=5"])
    outcome = objective.judge({"valid_accuracy": 0.5, "parameters": 100}, costs={"parameters": 3.0, "flops": 9.0})
    assert (outcome.status, outcome.metrics["parameters"], outcome.metrics["flops"]) == ("finished", 3.0, 9.0)


def test_the_order_of_outcomes() -> None:
    objective = Objective.parse(["valid_accuracy"], ["latency<=4"])
    rows = [("stopped", 0.9, 9), ("finished", 0.8, 9), ("finished", 0.9, 5), ("stopped", 0.1, 1), ("stopped", 0.2, 4), ("finished", 0.1, 1)]
    outcomes = [Outcome(status, 1, {"valid_accuracy": a, "latency": b}) for status, a, b in rows]  # type: ignore[arg-type]
    merits = [objective.merit(outcome) for outcome in outcomes]
    assert merits == sorted(
        merits, key=lambda merit: merit or ()
    )  # what exceeds the limits least is best, then the full ones, then the value


def test_search_and_record_have_one_order() -> None:
    space, rng = make_space("nasbench201"), np.random.default_rng(0)
    outcome = ONE.judge({"valid_accuracy": 0.5, "epoch": 4}, 8)
    assert Observation(space.sample(rng), outcome.status, ((4.0, 0.5),)).merit == ONE.merit(outcome)
