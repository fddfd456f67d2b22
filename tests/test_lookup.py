"""A trial that looks its results up, alone and under Tune."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, TrialScheduler

from raynas.errors import ConfigError, OutOfSpaceError, TableError, UnknownNameError
from raynas.registry import resolve
from raynas.spaces import make_space
from raynas.tables import Table
from trainables import TRAINABLES
from trainables.lookup import LookupTrial, report_epochs

BUDGETS = (1, 2, 4, 8)
SPACE = make_space("nasbench201")
ARCHS = list({SPACE.sample(np.random.default_rng(seed)) for seed in range(8)})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table of NAS-Bench-201 cells with 4 budgets and 2 repeats; cell i stays at its rank: accuracy grows with i and with the budget."""
    ranks = np.arange(len(ARCHS), dtype=np.float64)[:, None, None] / len(ARCHS)
    valid = 0.5 + 0.3 * ranks + 0.02 * np.arange(len(BUDGETS))[None, :, None] + 0.001 * np.arange(2)
    target = tmp_path_factory.mktemp("table") / "toy.parquet"
    test = valid - 0.01
    test[:, 0] = np.nan
    metrics = {"valid_accuracy": valid, "test_accuracy": test}
    ids = [arch.id for arch in ARCHS]
    common: dict[str, Any] = {"space": "nasbench201", "dataset": "toy", "source": "a test", "licence": "CC0", "sha256": None}
    Table.build(ids=ids, metrics=metrics, budgets=BUDGETS, **common).write(target)
    return str(target)


def config(path: str | None, index: int = 0, **changes: Any) -> dict[str, Any]:
    common = {"arch": ARCHS[index].to_config(), "space": "nasbench201", "space_options": {}, "table": path, "dataset": "toy"}
    return common | changes


@pytest.fixture
def trial(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LookupTrial:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))
    return LookupTrial(config(path))


def steps(trial: LookupTrial) -> list[dict[str, Any]]:
    reports = [trial.step()]
    while not reports[-1]["done"]:
        reports.append(trial.step())
    return reports


def test_it_is_registered() -> None:
    assert resolve(TRAINABLES, "lookup", "trainable") is LookupTrial


def test_a_step_is_a_budget(trial: LookupTrial, path: str) -> None:
    table = Table.open(path)
    reports = steps(trial)
    assert [report["epoch"] for report in reports] == list(BUDGETS)
    assert [report["done"] for report in reports] == [False, False, False, True]
    for report in reports:
        assert report == table.query(ARCHS[0].id, report["epoch"])._asdict() | {"done": report["done"]}
    assert reports[0]["test_accuracy"] is None
    assert reports[-1]["train_seconds"] is None


def test_nothing_is_left_over_in_a_reused_actor(trial: LookupTrial, path: str) -> None:
    steps(trial)
    assert trial.reset_config(config(path, 3, max_epochs=2, repeat=1)) is True
    reports = steps(trial)
    assert [report["epoch"] for report in reports] == [1, 2]
    assert reports[-1]["valid_accuracy"] == Table.open(path).query(ARCHS[3].id, 2, 1).valid_accuracy
    trial.reset_config(config(path, 0))
    assert [report["epoch"] for report in steps(trial)] == list(BUDGETS)


def test_a_checkpoint_keeps_the_position(trial: LookupTrial, path: str, tmp_path: Path) -> None:
    first = [trial.step(), trial.step()]
    trial.save_checkpoint(str(tmp_path))
    trial.reset_config(config(path, 0))
    trial.load_checkpoint(str(tmp_path))
    assert [report["epoch"] for report in first + steps(trial)] == list(BUDGETS)


def test_a_step_can_sleep(trial: LookupTrial, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("trainables.lookup.time.sleep", slept.append)
    trial.reset_config(config(path, seconds_per_report=0.5, max_epochs=2))
    steps(trial)
    assert slept == [0.5, 0.5]


def test_max_epochs(path: str) -> None:
    table = Table.open(path)
    assert report_epochs(table, None) == BUDGETS
    assert report_epochs(table, 5) == (1, 2, 4)
    with pytest.raises(ConfigError, match="max_epochs is 0, but the table starts at 1 epochs; its budgets are 1, 2, 4, 8"):
        report_epochs(table, 0)


def test_wrong_configurations_are_told(trial: LookupTrial, path: str) -> None:
    with pytest.raises(ConfigError, match="max_epochs"):
        trial.reset_config(config(path, max_epochs=0))
    with pytest.raises(TableError, match="there is no table"):
        trial.reset_config(config(path + ".none"))
    with pytest.raises(UnknownNameError, match="toy"):
        trial.reset_config(config(None))
    with pytest.raises(OutOfSpaceError):
        trial.reset_config(config(path, arch={"arch": "no architecture"}))
    with pytest.raises(UnknownNameError, match="option"):
        trial.reset_config(config(path, space_options={"depth": 3}))
    trial.reset_config(config(path, repeat=2))
    with pytest.raises(TableError, match="no repeat 2"):
        trial.step()


def test_a_plan_tells_which_architectures_the_table_holds(path: str) -> None:
    plan = LookupTrial.plan(space="nasbench201", space_options={}, table=path, dataset="toy", max_epochs=None)
    assert (plan.max_epochs, plan.instant) == (8, True)
    assert plan.space is not None
    rng = np.random.default_rng(0)
    assert {plan.space.sample(rng) for _ in range(200)} == set(ARCHS)
    assert plan.space.mutate(ARCHS[0], rng) in ARCHS


def run(path: str, folder: Path, scheduler: TrialScheduler, order: list[int]) -> dict[str, dict[str, Any]]:
    """The last report of every trial, by arch id."""
    # Best first, one at a time: what follows is worse at each rung, so that a stopping scheduler has something to stop.
    space = config(path) | {"arch": tune.grid_search([ARCHS[i].to_config() for i in order])}
    tuner = tune.Tuner(
        LookupTrial,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="valid_accuracy",
            mode="max",
            scheduler=scheduler,
            reuse_actors=True,
            max_concurrent_trials=1 if isinstance(scheduler, ASHAScheduler) else None,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)),
    )
    results = tuner.fit()
    assert results.num_errors == 0
    return {result.config["arch"]["id"]: result.metrics for result in results}


@pytest.mark.slow
def test_asha_stops_the_bad_ones(local_ray: None, path: str, tmp_path: Path) -> None:
    scheduler = ASHAScheduler(time_attr="epoch", max_t=8, grace_period=1, reduction_factor=2)
    last = run(path, tmp_path, scheduler, list(reversed(range(len(ARCHS)))))
    table = Table.open(path)
    assert len(last) == len(ARCHS)
    for arch_id, report in last.items():
        assert report["valid_accuracy"] == table.query(arch_id, report["epoch"]).valid_accuracy
    epochs = [last[arch.id]["epoch"] for arch in ARCHS]
    assert epochs == [1] * (len(ARCHS) - 1) + [8]
    assert len({report["pid"] for report in last.values()}) == 1  # one actor ran all of them


@pytest.mark.slow
def test_hyperband_pauses_and_goes_on(local_ray: None, path: str, tmp_path: Path) -> None:
    scheduler = HyperBandScheduler(time_attr="training_iteration", max_t=4, reduction_factor=2)
    last = run(path, tmp_path, scheduler, list(range(len(ARCHS))))
    assert len(last) == len(ARCHS)
    table = Table.open(path)
    for arch_id, report in last.items():
        assert report["epoch"] == BUDGETS[report["training_iteration"] - 1]  # a paused trial went on where it was
        assert report["valid_accuracy"] == table.query(arch_id, report["epoch"]).valid_accuracy
    assert last[ARCHS[-1].id]["epoch"] == 8
    assert any(report["iterations_since_restore"] < report["training_iteration"] for report in last.values())
