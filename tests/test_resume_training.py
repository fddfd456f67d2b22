"""Trainings that go on after their driver or their own process was killed, as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from asha_rungs import SCRIPT, shown_rungs
from logged_trial import LOG, LoggedTrial, read_log

from raynas import results
from raynas.spaces import make_space

EPOCHS, TRIALS, RUNG = 7, 5, 3
SEARCH = ["--space", "nasbench201", "--dataset", "digits", "--searcher", "random", "--trials", str(TRIALS), "--max-epochs", str(EPOCHS)]
OPTIONS = ["--set", "trainable_options.recipe=quick", "--scheduler", "asha", "--set", f"scheduler_options.grace_period={RUNG}"]
OPTIONS += ["--concurrency", "2", "--cpus-per-trial", "0.5"]


class Killed(NamedTuple):
    """A search whose driver was killed."""

    run: Path
    log: Path


def environment(log: Path) -> dict[str, str]:
    path = os.pathsep.join(map(str, Path(__file__).resolve().parents[:2]))
    return os.environ | {LOG: str(log), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def search(folder: Path, log: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment(log), capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(scope="module")
def once_killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """The driver was killed when two trials had checkpoints, one of them on or after the rung, which it had passed."""
    folder = tmp_path_factory.mktemp("killed")
    made = Killed(folder / "run", folder / "log")
    command = [sys.executable, "-m", "raynas.search", *SEARCH, *OPTIONS, "--trainable", "logged_trial:LoggedTrial", "--out", "run"]
    process = subprocess.Popen(command, cwd=folder, env=environment(made.log), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(saved := saved_epochs(made.run)) == 2 and max(saved.values()) >= RUNG:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(saved_epochs(made.run)) == 2
    return made


@pytest.fixture
def killed(once_killed: Killed, tmp_path: Path) -> Killed:
    """A copy, in another place, to go on with."""
    copy = Killed(tmp_path / "run", tmp_path / "log")
    shutil.copytree(once_killed.run, copy.run)
    return copy


def saved_epochs(run: Path) -> dict[str, int]:
    """The epoch of the last checkpoint of each architecture whose training was under way."""
    rows = results.read(str(run)).started.to_pylist() if (run / "config.json").exists() else []
    return {row["arch_id"]: json.loads(row["checkpoint"])["training_iteration"] for row in rows if row["checkpoint"]}


def checkpoints(run: Path) -> list[Path]:
    return list(run.glob("tune/*/*/checkpoint_*"))


@pytest.fixture(scope="module")
def trained() -> Callable[[str], list[dict[str, Any]]]:
    """What each epoch of an architecture is where nothing interrupts it, in this process."""
    known: dict[str, list[dict[str, Any]]] = {}

    def train(arch_id: str) -> list[dict[str, Any]]:
        if arch_id not in known:
            arch = make_space("nasbench201").from_config({"arch": arch_id})
            config = {"space": "nasbench201", "dataset": "digits", "recipe": "quick", "max_epochs": EPOCHS}
            trial = LoggedTrial(config | {"arch": arch.to_config()})
            for _ in range(EPOCHS):
                trial.step()
            lines = [line for line in read_log(Path(os.environ[LOG])) if line["arch"] == arch_id]
            known[arch_id] = [{key: value for key, value in line.items() if key not in ("process", "node")} for line in lines]
        return known[arch_id]

    return train


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "tune"))
    monkeypatch.setenv(LOG, str(tmp_path / "log of this process"))
    monkeypatch.setattr(LoggedTrial, "pause", 0.0)
    torch.set_num_threads(1)


def check_complete(done: subprocess.CompletedProcess[str], run: Path, before: results.Tables | None) -> list[dict[str, Any]]:
    """All trials ended, no report is lost or doubled, the rungs of ASHA hold every report once; returns the trials."""
    assert done.returncode == 0, done.stdout + done.stderr
    tables = results.read(str(run))
    trials, reports = tables.trials.to_pylist(), tables.reports.to_pylist()
    assert len({row["arch_id"] for row in trials}) == len(trials) == TRIALS
    assert {row["status"] for row in trials} <= {"finished", "stopped"}
    for row in trials:
        curve = [report["epoch"] for report in reports if report["trial_id"] == row["trial_id"]]
        assert curve == list(range(1, row["epochs"] + 1))
    if before is not None:
        assert all(report in reports for report in before.reports.to_pylist())
        assert all(row in trials for row in before.trials.to_pylist())
    rungs = shown_rungs(done.stdout)
    assert {rung: sorted(values) for rung, values in rungs.items()} == {
        str(RUNG): sorted(report["valid_accuracy"] for report in reports if report["epoch"] == RUNG)
    }
    assert not checkpoints(run)  # nobody needs them
    return trials


def check_equal(log: list[dict[str, Any]], trained: Callable[[str], list[dict[str, Any]]]) -> None:
    """What the processes computed is, bit for bit, what a training that nothing interrupts computes."""
    for line in log:
        expected = trained(line["arch"])[line["epoch"] - 1]
        assert {key: value for key, value in line.items() if key not in ("process", "node")} == expected


@pytest.mark.slow
def test_a_killed_search_goes_on_from_the_checkpoints(
    once_killed: Killed, killed: Killed, trained: Callable[[str], list[dict[str, Any]]]
) -> None:
    before, saved = results.read(str(killed.run)), saved_epochs(killed.run)
    assert 0 < len(checkpoints(killed.run)) <= 3 * 2  # of two trials: two that are kept, and one being written
    done = search(killed.run.parent, killed.log, "--resume", f"local://{killed.run}")  # a place that pyarrow does not open by itself
    check_complete(done, killed.run, before)
    log = read_log(killed.log)
    for arch_id, epoch in saved.items():
        assert min(line["epoch"] for line in log if line["arch"] == arch_id) == epoch + 1
    check_equal(read_log(once_killed.log) + log, trained)
    assert len({line["process"] for line in log}) < len({line["arch"] for line in log})  # one after another in one process
    assert not done.stderr


@pytest.mark.slow
def test_without_its_checkpoint_a_trial_begins_again(killed: Killed, trained: Callable[[str], list[dict[str, Any]]]) -> None:
    before, saved = results.read(str(killed.run)), saved_epochs(killed.run)
    gone, damaged = (row for row in before.started.to_pylist() if row["checkpoint"])
    shutil.rmtree(killed.run / json.loads(gone["checkpoint"])["path"])
    state = killed.run / json.loads(damaged["checkpoint"])["path"] / "state.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    done = search(killed.run.parent, killed.log, "--resume", killed.run)
    check_complete(done, killed.run, before)
    log = read_log(killed.log)
    assert all(min(line["epoch"] for line in log if line["arch"] == arch_id) == 1 for arch_id in saved)
    check_equal(log, trained)
    for row, reason in ((gone, "is gone, so it begins again"), (damaged, "cannot be read, so it begins again")):
        said = [line for line in done.stderr.splitlines() if row["trial_id"] in line]
        assert len(said) == 1
        assert reason in said[0]


@pytest.mark.slow
def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint(tmp_path: Path, trained: Callable[[str], list[dict[str, Any]]]) -> None:
    options = [*OPTIONS, "--max-failures", "1", "--trainable", "logged_trial:DyingTrial"]
    done = search(tmp_path, tmp_path / "log", *SEARCH, *options, "--out", "run")
    check_complete(done, tmp_path / "run", None)
    assert (tmp_path / "log-died").exists()
    log = read_log(tmp_path / "log")
    assert len({(line["arch"], line["epoch"]) for line in log}) == len(log)  # nothing was trained twice
    check_equal(log, trained)
