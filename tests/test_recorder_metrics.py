"""What is kept of the metrics that trials report."""

import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_recorder import ARCHS, SPACE, Run, rows
from test_recorder import uri as uri

from raynas import results, storage
from raynas.columns import TRIALS
from raynas.errors import ConfigError
from raynas.outcome import Objective


def test_every_metric_is_kept(uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path)
    run.trial(0, *({"epoch": epoch, "valid_accuracy": epoch / 10, "latency": 5.0 - epoch, "f1": 0.5} for epoch in (1, 2, 3)))
    run.trial(1, {"epoch": 3, "valid_accuracy": 0.2, "energy": 7, "note": "text", "converged": True})
    run.close()
    tables = results.read(uri)
    first, second = tables.trials.to_pylist()
    assert tables.trials.schema.names == [*TRIALS.names, "energy", "f1", "latency"]
    assert [first[name] for name in ("latency", "f1", "energy")] == [2.0, 0.5, None]
    assert [second[name] for name in ("latency", "f1", "energy")] == [None, None, 7.0]
    assert tables.reports["latency"].to_pylist() == [4.0, 3.0, 2.0, None]
    assert tables.reports["wall_seconds"].to_pylist() == [1.0, 2.0, 3.0, 1.0]
    best = storage.read_json(uri, "best.json")
    cost = SPACE.cost(ARCHS[0])
    expected = {"valid_accuracy": 0.3, "latency": 2.0, "f1": 0.5, "test_accuracy": None, "status": "finished", "epochs": 3}
    expected |= {"parameters": cost.parameters, "flops": cost.flops, "space": "nasbench201", "space_options": {}, "train": "train it"}
    assert {key: best[key] for key in expected} == expected
    assert best["arch"] == best["recommended"] == ARCHS[0].to_config()


def test_the_costs_are_those_of_the_space_whatever_the_trial_counts(uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path)
    run.trial(0, {"epoch": 3, "valid_accuracy": 0.5, "parameters": 7, "flops": 8, "network_parameters": 9})
    run.trial(1, error="OSError: no disk")
    run.close()
    for row, arch in zip(rows(uri), ARCHS, strict=False):
        assert (row["parameters"], row["flops"]) == SPACE.cost(arch)
    assert rows(uri)[0]["network_parameters"] == 9.0
    assert "parameters" not in results.read(uri).reports.schema.names


def test_metrics_are_curves(tmp_path: Path) -> None:
    uri = str(tmp_path / "run")
    run = Run(uri, tmp_path, per_trial=True)
    run.trial(0, {"epoch": 3, "valid_accuracy": 0.25, "latency": 2.0, "test_accuracy": None})
    run.trial(1, {"epoch": 3, "valid_accuracy": 0.5, "latency": 4.0, "test_accuracy": 0.75})
    run.close()

    def curve(folder: str, tag: str) -> list[tuple[int, float]]:
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / folder))
        events.Reload()
        return [(event.step, event.value) for event in events.Scalars(tag)]

    assert curve("summary", "incumbent/valid_accuracy") == [(1, 0.25), (2, 0.5)]
    assert curve("summary", "incumbent/latency") == [(1, 2.0), (2, 4.0)]
    assert curve("summary", "incumbent/test_accuracy") == [(2, 0.75)]
    assert curve("trials/t1", "latency") == [(3, 4.0)]


def test_a_metric_with_the_name_of_a_column_is_refused_with_one_warning(uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(uri, tmp_path)
    for number in range(3):
        run.trial(number, *({"epoch": e, "valid_accuracy": 0.5, "order": 99, "status": 1, "ended_at": 0.5, "latency": 1} for e in (1, 3)))
    run.close()
    assert [(row["order"], row["status"], row["latency"]) for row in rows(uri)] == [(i, "finished", 1.0) for i in range(3)]
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(warned) == [
        f"the metric {name} is not stored: a column of the tables has that name; report it under another one"
        for name in ("ended_at", "order", "status")
    ]


@pytest.mark.parametrize(("entries", "limits"), [(["order"], []), ([], ["epochs<=3"])])
def test_such_a_metric_can_be_no_objective(entries: list[str], limits: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^(order|epochs) is a column of the tables that is no metric; report the metric under another"):
        Run(str(tmp_path / "run"), tmp_path, Objective.parse(entries, limits))
