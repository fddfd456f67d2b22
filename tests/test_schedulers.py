"""Tune's schedulers as raynas makes them: what they see of reports, and what is said of options that cannot work."""

from typing import Any

import pyarrow as pa
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from raynas.columns import REPORTS, STARTED, TRIALS
from raynas.errors import ConfigError, RaynasError
from raynas.results import Tables
from raynas.run.schedulers import NoController, make_scheduler, remembers, replay, retell
from raynas.run.settings import SCHEDULERS

STOPPING = [name for name in SCHEDULERS if name != "fifo"]


class MyScheduler(ASHAScheduler):  # type: ignore[misc]  # ray has no types
    """A scheduler of the user's own."""


class OwnScheduler(FIFOScheduler):  # type: ignore[misc]  # ray has no types
    """Another one, that takes nothing of what the command sets."""

    def __init__(self, patience: int = 3) -> None:
        super().__init__()
        if patience < 1:
            raise ValueError("patience must be at least 1\nmore")


class Broken:
    """No scheduler."""


class Running:
    """What schedulers read of a trial of Tune."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.status, self.is_saving = f"t{number}", Trial.RUNNING, False


def rungs(scheduler: Any) -> dict[int, list[float]]:
    return {int(rung): list(values.values()) for rung, values in scheduler._brackets[0]._rungs}


def feed(scheduler: Any, reports: list[dict[str, Any]], trials: int = 1) -> list[str]:
    """What is decided on each report; all trials make the same ones."""
    decisions = []
    for each in map(Running, range(trials)):
        scheduler.on_trial_add(NoController(), each)
        decisions += [scheduler.on_trial_result(NoController(), each, report) for report in reports]
        scheduler.on_trial_complete(NoController(), each, reports[-1])
    return decisions


@pytest.mark.parametrize("key", ["epoch", "training_iteration"])
def test_asha_counts_epochs_or_else_reports(key: str) -> None:
    scheduler = make_scheduler("asha", "valid_accuracy", "max", 27)
    feed(scheduler, [{key: step, "valid_accuracy": step / 10} for step in range(1, 10)])
    assert rungs(scheduler) == {1: [0.1], 3: [0.3], 9: [0.9], 27: []}


@pytest.mark.parametrize("name", STOPPING)
def test_reports_without_epochs_and_without_values_harm_nobody(name: str) -> None:
    """Any exception in a scheduler would end the whole run."""
    scheduler = make_scheduler(name, "valid_accuracy", "max", 27)
    good = [{"training_iteration": step, "valid_accuracy": 0.5} for step in range(3)]
    bad = [{"training_iteration": 3}, {"training_iteration": 4, "valid_accuracy": None}, {"valid_accuracy": float("nan")}]
    decisions = feed(scheduler, good + bad, trials=6)
    assert len(decisions) == 36
    assert set(decisions) <= {TrialScheduler.CONTINUE, TrialScheduler.PAUSE, TrialScheduler.STOP}


def test_the_median_rule_stops_trials_without_epochs() -> None:
    scheduler, decisions = make_scheduler("median", "latency", "min", 27), []
    for number, latency in enumerate([1.0, 1.0, 1.0, 9.0]):
        each = Running(number)
        scheduler.on_trial_add(NoController(), each)
        decisions.append(scheduler.on_trial_result(NoController(), each, {"training_iteration": 1, "latency": latency}))
    assert decisions == [TrialScheduler.CONTINUE] * 3 + [TrialScheduler.STOP]


def test_what_was_not_stopped_in_the_past_is_not_stopped_by_hindsight() -> None:
    """The slow one reported before the others, so nothing stopped it; after a restart it goes on reporting."""
    scheduler = make_scheduler("median", "latency", "min", 27)
    feed(scheduler, [{"epoch": epoch, "latency": 1.0} for epoch in (1, 2, 3, 4)], trials=3)
    each = Running(9)
    scheduler.on_trial_add(NoController(), each)
    retell(scheduler, each, [{"epoch": epoch, "latency": 9.0} for epoch in (1, 2, 3)], "latency")
    assert scheduler.on_trial_result(NoController(), each, {"epoch": 4, "latency": 9.0}) == TrialScheduler.STOP


@pytest.mark.parametrize("name", STOPPING)
def test_a_scheduler_that_stops_trials_must_know_the_budget(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the scheduler '{name}' stops trials early, so it must know .*: give --max-epochs$"):
        make_scheduler(name, "valid_accuracy", "max", None)
    assert type(make_scheduler("fifo", "valid_accuracy", "max", None)) is FIFOScheduler


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("asha", {"max_t": 5}, "the scheduler 'asha' cannot be made with max_t=5, grace_period=7, reduction_factor=3: grace_period must be"),
    ("asha", {"grace_period": 300}, "grace_period must be <= max_t!"),
    ("asha", {"reduction_factor": 1}, "reduction_factor must be above 1"),
    ("asha", {"brackets": 0}, "brackets must be positive"),
    ("hyperband", {"reduction_factor": 1}, "reduction_factor must be above 1"),
    ("hyperband", {"reduction_factor": 0.5}, "reduction_factor must be above 1"),
    ("hyperband", {"max_t": 0}, "not valid"),
    ("median", {"metric": "train_loss"}, "metric is no option of the scheduler here; the command sets it"),
    ("median", {"mode": "min"}, "mode is no option of the scheduler here"),
    ("asha", {"time_attr": "training_iteration"}, "time_attr is no option of the scheduler here"),
    ("asha", {"graceperiod": 1}, "unknown option of scheduler 'asha' 'graceperiod'; did you mean 'grace_period'"),
    ("fifo", {"max_t": 1}, "unknown option of scheduler 'fifo'"),
    ("test_schedulers:MyScheduler", {"max_t": 5, "grace_period": 6}, "cannot be made with max_t=5, grace_period=6: grace_period must be"),
    ("test_schedulers:MyScheduler", {"metric": "x"}, "metric is no option"),
    ("test_schedulers:OwnScheduler", {"patience": 0}, "patience=0: patience must be at least 1; change scheduler_options"),
    ("test_schedulers:OwnScheduler", {"patients": 1}, "unknown option"),
    ("test_schedulers:Broken", {}, "is no class of Tune schedulers"),
    ("test_schedulers:rungs", {}, "is no class of Tune schedulers"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_what_cannot_work_is_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RaynasError) as info:
        make_scheduler(name, "valid_accuracy", "max", 200, options)
    assert message in str(info.value)
    assert "\n" not in str(info.value)


def test_a_scheduler_of_the_users_own_gets_what_the_command_sets() -> None:
    made = make_scheduler("test_schedulers:MyScheduler", "latency", "min", 9)
    assert (made._metric, made._mode, made._time_attr, made._max_t) == ("latency", "min", "epoch", 9)
    assert remembers(made)
    assert isinstance(make_scheduler("test_schedulers:OwnScheduler", "latency", "min", 9), OwnScheduler)
    with pytest.raises(ConfigError, match="give --max-epochs"):
        make_scheduler("test_schedulers:OwnScheduler", "latency", "min", None)


@pytest.mark.parametrize("name", ["asha", "median", "test_schedulers:MyScheduler"])
def test_what_is_replayed_is_the_first_metric_of_the_objective(name: str) -> None:
    schema = pa.schema([*REPORTS, pa.field("latency", pa.float64())])
    ended = [{"order": i, "trial_id": f"t{i}", "arch_id": "a", "arch": "{}", "status": "finished"} for i in range(2)]
    reports = [{"trial_id": "t0", "epoch": epoch, "latency": 2.0, "valid_accuracy": 0.1} for epoch in (1, 3)]
    reports.append({"trial_id": "t1", "epoch": 1, "latency": None, "valid_accuracy": 0.1})  # it failed before it had one
    tables = Tables(pa.Table.from_pylist(ended, schema=TRIALS), pa.Table.from_pylist(reports, schema=schema), STARTED.empty_table())
    scheduler = make_scheduler(name, "latency", "min", 9)
    replay(scheduler, tables, "latency")
    if name == "median":
        assert [[report["latency"] for report in told] for told in scheduler._results.values()] == [[2.0] * 2]
    else:
        assert {rung for rung, values in rungs(scheduler).items() if values == [-2.0]} == ({1, 3} if name == "asha" else {1})
