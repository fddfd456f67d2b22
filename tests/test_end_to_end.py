"""The whole path, through the commands as a user types them: a search that trains for real, killed once, and the training of its best."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raynas import results
from raynas.train import load_model
from trainables.learning.data import load

TRIALS, EPOCHS = 12, 6
RUNGS = (1, 3)  # of ASHA below six epochs
FLOOR = 0.90  # test accuracy on digits: chance has 0.10, the nearest mean image of a class 0.90, logistic regression 0.98
OPTIONS = ["--trainable", "train", "--dataset", "digits", "--recipe", "quick", "--set", "searcher_options.num_initial=5"]


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"raynas.{name}", *map(str, arguments)]


def run(folder: Path, *arguments: str) -> str:
    """What a command printed that ended well."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill_in_the_middle(folder: Path, *arguments: str) -> results.Tables:
    """Starts a search and kills its driver once some trials have ended and others are under way; returns what was on disk."""
    process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
        if (folder / "run" / "config.json").exists():
            tables = results.read(str(folder / "run"))
            if len(tables.trials) >= 3 and len(tables.started):
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return results.read(str(folder / "run"))
    raise AssertionError(f"no moment to kill the search came before it ended with {process.poll()}")


def check_search(folder: Path) -> None:
    """The tables of a finished search, read by programs that know nothing of raynas."""
    trials, reports = str(folder / "run" / "trials.parquet"), str(folder / "run" / "reports.parquet")
    counted = duckdb.execute("select count(*), count(distinct arch_id), count(distinct trial_id) from read_parquet(?)", [trials]).fetchone()
    assert counted == (TRIALS, TRIALS, TRIALS)
    frame = pd.read_parquet(trials)
    assert set(frame["status"]) == {"finished", "stopped"}
    assert set(frame[frame["status"] == "finished"]["epochs"]) == {EPOCHS}
    assert set(frame[frame["status"] == "stopped"]["epochs"]) <= set(RUNGS)
    assert (frame["parameters"] > 0).all()
    assert frame["test_accuracy"].isna().all()  # a search never sees it
    query = "select trial_id, count(*), min(epoch), max(epoch), count(distinct epoch) from read_parquet(?) group by trial_id"
    epochs = dict(zip(frame["trial_id"], frame["epochs"], strict=True))
    for trial_id, count, first, last, different in duckdb.execute(query, [reports]).fetchall():
        assert (count, first, last, different) == (epochs[trial_id], 1, epochs[trial_id], epochs[trial_id])
    best = json.loads((folder / "run" / "best.json").read_text())
    full = frame[frame["status"] == "finished"]
    assert best["arch_id"] == full.loc[full["valid_accuracy"].idxmax(), "arch_id"]
    events = EventAccumulator(str(folder / "run" / "tensorboard" / "summary"))
    events.Reload()
    assert events.Scalars("predictor/refit_seconds")  # the model of BANANAS took part


def check_training(folder: Path) -> None:
    """The best architecture, trained by the command that the search printed, beats the floor, and so does the network it leaves."""
    run(
        folder, *command("train", "--arch", "run/best.json", "--dataset", "digits", "--recipe", "quick", "--epochs", 10, "--out", "trained")
    )
    result = json.loads((folder / "trained" / "result.json").read_text())
    assert result["epochs"] == 10
    assert result["test_accuracy"] > FLOOR
    test = load("digits", 0).test
    correct = load_model(folder / "trained")(test.images).argmax(1) == test.labels
    assert float(correct.float().mean()) == pytest.approx(result["test_accuracy"])


@pytest.mark.slow
def test_nasbench101_on_digits(tmp_path: Path) -> None:
    search = ["--space", "nasbench101", "--scheduler", "asha", "--trials", TRIALS, "--max-epochs", EPOCHS, "--out", "run"]
    printed = run(tmp_path, *command("search", *OPTIONS, *search))
    assert f"{TRIALS}/{TRIALS} trials" in printed
    check_search(tmp_path)
    check_training(tmp_path)


@pytest.mark.slow
def test_darts_on_digits_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    search = ["--space", "darts", "--scheduler", "asha", "--trials", TRIALS, "--max-epochs", EPOCHS, "--out", "run"]
    before = kill_in_the_middle(tmp_path, *command("search", *OPTIONS, *search))
    assert 3 <= len(before.trials) < TRIALS
    run(tmp_path, *command("search", "--resume", "run"))
    check_search(tmp_path)
    after = results.read(str(tmp_path / "run"))
    assert all(row in after.trials.to_pylist() for row in before.trials.to_pylist())
    assert all(row in after.reports.to_pylist() for row in before.reports.to_pylist())
    check_training(tmp_path)


def test_the_floor_means_something() -> None:
    """What simple methods reach with the same images."""
    data = load("digits", 0)
    train, test = data.train.images.flatten(1), data.test.images.flatten(1)
    means = torch.stack([train[data.train.labels == label].mean(0) for label in range(10)])
    nearest = torch.cdist(test, means).argmin(1)
    assert float((nearest == data.test.labels).float().mean()) == pytest.approx(FLOOR, abs=0.02)
    regression = LogisticRegression(max_iter=2000).fit(train.numpy(), data.train.labels.numpy())
    assert regression.score(test.numpy(), data.test.labels.numpy()) == pytest.approx(0.98, abs=0.015)
