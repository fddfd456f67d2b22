"""What reaches MLflow and Weights & Biases of a search; and that they cannot harm it."""

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from run_rows import report, started, trial

from raynas import results, storage
from raynas.config import RunConfig, make_config
from raynas.errors import ConfigError, RaynasError
from raynas.run import trackers
from raynas.run.settings import plain, resumed_run
from raynas.run.trackers import Trackers, check_trackers, flat
from raynas.search import main

ROOT = Path(__file__).resolve().parents[1]
SEARCH = ["--searcher", "random", "--trainable", "failing_trial:FailingTrial", "--max-failed-share", "1", "--log", "mlflow"]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def search(folder: Path, *arguments: object) -> str:
    """What a search prints that ends well."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "raynas.search", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def runs(folder: Path, experiment: str) -> list[Any]:
    client = MlflowClient(str(folder))
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


# What arrives


def test_mlflow_has_a_run_for_each_trial_after_a_resume_too(tmp_path: Path) -> None:
    options = ["--set", "log_options.tracking_uri=./mlruns", "--set", "log_options.experiment_name=first"]
    assert "mlflow" not in search(tmp_path, *SEARCH, *options, "--trials", 8, "--out", "run")
    assert "mlflow" not in search(tmp_path, "--resume", "run", "--trials", 10)
    rows = {row["trial_id"]: row for row in results.read(str(tmp_path / "run")).trials.to_pylist()}
    found = {run.data.params["trial_id"]: run for run in runs(tmp_path / "mlruns", "first")}
    assert found.keys() == rows.keys()
    assert {row["status"] for row in rows.values()} == {"finished", "failed"}
    for trial_id, row in rows.items():
        run = found[trial_id]
        assert run.info.status == {"finished": "FINISHED", "failed": "FAILED"}[row["status"]]
        assert run.data.tags["run_id"] == row["run_id"]
        assert run.info.run_name == trial_id
        expected = {name: row[name] for name in ("arch_id", "status", "proposed_by")} | {"arch.arch": row["arch_id"], "seed": "0"}
        assert {name: run.data.params[name] for name in expected} == expected
        assert run.data.params.get("error") == row["error"]
        reported = {name: row[name] for name in ("valid_accuracy", "latency", "parameters", "flops") if row[name] is not None}
        assert {name: run.data.metrics[name] for name in reported} == reported
    stored = storage.read_config(str(tmp_path / "run"))
    assert (stored["log"], stored["log_options"]["tracking_uri"]) == (["mlflow"], str(tmp_path / "mlruns"))


def test_a_server_that_is_down_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@127.0.0.1:9")
    printed = search(tmp_path, *SEARCH, "--trials", 4, "--out", "run")
    (line,) = (line for line in printed.splitlines() if "mlflow" in line)
    assert line.startswith("warning: mlflow does not get everything (")
    assert "hidden" not in printed
    assert "hidden" not in (tmp_path / "run" / "config.json").read_text()
    assert len(results.read(str(tmp_path / "run")).trials) == 4


def test_wandb_has_a_run_for_each_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    search(tmp_path, *SEARCH[:-1], "wandb", "--trials", 2, "--out", "run")
    (run_id,) = {row["run_id"] for row in results.read(str(tmp_path / "run")).trials.to_pylist()}
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}-*"))) == 2


# What a tracker does to a search


class Callback:
    """In place of Tune's: notes what it is told, or does worse."""

    def __init__(self, hang: threading.Event | None = None, error: Exception | None = None) -> None:
        self.hang, self.error, self.told = hang, error, list[tuple[Any, ...]]()

    def setup(self) -> None:
        if self.hang is not None:
            self.hang.wait()

    def __getattr__(self, name: str) -> Any:
        def hook(*args: Any) -> None:
            self.told.append((name, *args))
            if self.error is not None:
                raise self.error

        return hook


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    yield (event := threading.Event())
    event.set()


def told(callback: Callback, monkeypatch: pytest.MonkeyPatch, trials: int, patience: float = 10.0) -> Trackers:
    """Trackers that were told of trials, the last of which goes on."""
    kind = replace(trackers.TRACKERS["mlflow"], make=lambda options, run_id: callback, patience=patience)
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", kind)
    made = Trackers(["mlflow"], {}, "r", {"seed": 0})
    for order in range(trials):
        made.started(started(order, proposed_by="initial"))
        made.reported(f"t{order}", 1, report(order, 1))
        if order < trials - 1:
            made.ended(trial(order, status="stopped"))
    return made


def test_what_is_told_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    made = told(callback := Callback(), monkeypatch, 2)
    made.close()
    assert [hook for hook, *_ in callback.told] == [
        *("log_trial_start", "log_trial_result", "log_trial_start", "log_trial_result", "log_trial_end"),
        *("log_trial_start", "log_trial_result", "log_trial_start", "log_trial_result", "log_trial_end", "on_experiment_end"),
    ]
    begun, reported, _, last, end, *_, interrupted = callback.told[:-1]
    assert begun[1].config == {"seed": 0, "trial_id": "t0", "arch_id": "a0", "proposed_by": "initial", "run_id": "r"}
    assert (reported[3]["training_iteration"], reported[3]["valid_accuracy"]) == (1, 0.1)
    assert (last[3]["parameters"], last[3]["config"]) == (1000, {"status": "stopped"})
    assert (end[2], interrupted[2]) == (False, True)
    assert list(made.news()) == []


def test_one_that_fails_each_time_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = told(callback := Callback(error=OSError("https://me:hidden@host refuses")), monkeypatch, 3)
    made.close()
    assert len(callback.told) == 16
    (line,) = made.news()
    assert "mlflow does not get everything (OSError: https://...@host refuses);" in line
    assert list(made.news()) == []


def test_one_that_hangs_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch, hang: threading.Event) -> None:
    monkeypatch.setattr(trackers, "MOST", 20)
    made = told(callback := Callback(hang), monkeypatch, 100, patience=0.2)
    (line,) = made.news()
    assert "it is too slow, or does not answer" in line
    made.close()
    assert list(made.news()) == []
    assert callback.told == []


def test_nested_parameters_are_readable() -> None:
    nested = {"a": {"b": [1, "x"], "c": None}, "d": [["conv", 0]], "e": 1.5}
    assert flat(nested) == {"a.b": "1, x", "d": '[["conv",0]]', "e": 1.5}


# Mistakes


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "hidden"},
        {"tracking_token": "hidden"},
        {"tracking_uri": "https://me:hidden@host/x"},
        {"tracking_uri": "https://hidden@host"},
        {"tracking_uri": "http://[:hidden@host"},
        {"tracking_uri": "https://host/?access_token=hidden"},
        "hidden",
    ],
)
def test_secrets_are_refused_and_not_repeated(options: Any) -> None:
    with pytest.raises(ConfigError) as info:
        check_trackers(["mlflow"], make_config(plain({"log": ["mlflow"], "log_options": options}), RunConfig).log_options)
    assert "hidden" not in str(info.value)
    assert "MLFLOW_TRACKING_TOKEN" in str(info.value) or "--set log_options." in str(info.value)


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["mlfow"], {}, "tracker 'mlfow'.*mlflow"),
        (["mlflow"], {"project": "x"}, "option of log_options 'project'.*tracking_uri"),
        ([], {"tracking_uri": "x"}, "without --log"),
        (["mlflow"], {"experiment_name": 5}, "experiment_name must be a text, not 5"),
    ],
)
def test_mistakes_are_one_line(names: list[str], options: dict[str, Any], words: str) -> None:
    with pytest.raises(RaynasError, match=words) as info:
        check_trackers(names, options)
    assert "\n" not in str(info.value)


def test_a_missing_package_is_one_line_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module("raynas.run.session")  # before the path is gone
    (tmp_path / "wandb").mkdir()  # as wandb leaves it, and no package
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert main(["--log", "wandb", "--out", "run"]) == 2
    assert capsys.readouterr().err == "error: --log wandb needs the package wandb: pip install 'raynas[wandb]'\n"
    assert not (tmp_path / "run").exists()


def test_a_stranger_does_not_choose_the_tracker(tmp_path: Path) -> None:
    config = {"config": {"log": ["mlflow"], "log_options": {"tracking_uri": "https://theirs"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="says where trackers are"):
        resumed_run(str(tmp_path), {}, own=False)
    given = {"log_options": {"tracking_uri": "https://mine"}}
    assert resumed_run(str(tmp_path), given, own=False).log_options == given["log_options"]
    assert resumed_run(str(tmp_path), {}, own=True).log_options["tracking_uri"] == "https://theirs"
