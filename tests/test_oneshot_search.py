"""One-shot searches as methods of `python -m raynas.search`: supernets first, then the training of what they found."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from rich.console import Console
from test_oneshot import alone, reports  # noqa: F401  # a fixture for all tests here

from raynas import results, storage
from raynas.config import RunConfig
from raynas.errors import ResumeError
from raynas.run.retries import Retries
from raynas.run.settings import new_run, resumed_run
from raynas.run.supernets import SearchLog, Supernets
from raynas.run.writer import Writer
from raynas.search import main
from raynas.spaces.darts import GENOTYPES, DARTSSpace
from searchers import oneshot_method
from trainables.oneshot import DartsTrial, RandomTrial

LOG = "TEST_ONESHOT_LOG"
SPACE = DARTSSpace()


class LoggedSearch(RandomTrial):
    """Notes every step in the file that an environment variable names."""

    def step(self) -> dict[str, Any]:
        report = super().step()
        with open(os.environ[LOG], "a") as file:
            file.write(f"{self._seed} {report['epoch']}\n")
        return report


class Unchecked(DartsTrial):
    """Takes any option."""

    @classmethod
    def plan(cls, **options: Any) -> Any:
        return None


FLAGS = ["--space", "darts", "--dataset", "digits", "--searcher", "darts", "--recipe", "quick"]
SIZES = ["--set", "searcher_options.channels=4", "--set", "searcher_options.layers=3"]
OLD = ["--space", "darts", "--dataset", "digits", "--trainable", "darts"]  # as before searchers could be one-shot

BAD = {
    "space": ([*FLAGS, "--space", "nasbench201"], "--space darts"),
    "searcher besides": ([*OLD, "--searcher", "random"], "'darts' is a search method itself: give --searcher darts"),
    "searcher's options besides": ([*OLD, "--set", "searcher_options.pool=9"], "is a search method itself"),
    "option": ([*FLAGS, "--set", "searcher_options.epoch=9"], "did you mean 'epochs'"),
    "type": ([*FLAGS, "--set", "searcher_options.order=3"], "option order of searcher 'darts' cannot be 3"),
    "value": ([*FLAGS, "--set", "searcher_options.epochs=0"], "epochs of a one-shot search must be at least 1, not 0"),
    "fraction": ([*FLAGS, "--set", "searcher_options.validation=1.0"], "must lie between 0 and 1"),
    "size": ([*FLAGS, "--set", "searcher_options.partial=3"], "partial must divide the channels"),
    "option of another method": ([*FLAGS, "--set", "searcher_options.rounds=3"], "unknown option of searcher 'darts'"),
    "retrain": ([*OLD, "--set", "trainable_options.retrain=quick"], "retrain must hold options of the training, not 'quick'"),
    "option of the training": ([*FLAGS, "--set", "trainable_options.recipee=quick"], "did you mean 'recipe'"),
    "recipe": ([*FLAGS, "--recipe", "darts-final"], "no validation images"),
    "table": ([*FLAGS, "--table", "t.parquet"], "reads no table"),
    "data set": ([*FLAGS, "--dataset", "digit"], "did you mean 'digits'"),
    "name": ([*FLAGS, "--searcher", "dart"], "did you mean 'darts'"),
    "name, the old way": ([*OLD, "--trainable", "dart"], "Known: lookup, train"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_get_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, message = BAD[case]
    assert main([*(SIZES if flags[: len(FLAGS)] == FLAGS else []), *flags, "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert message in printed
    assert not (tmp_path / "run").exists()


def test_who_is_a_one_shot_search() -> None:
    names = ("darts", "pc-darts", "random-ws", "test_oneshot_search:LoggedSearch", "bananas", "searchers:Random")
    assert [oneshot_method(name, {}) is not None for name in names] == [True] * 4 + [False] * 2


def config(**changes: Any) -> RunConfig:
    options = {"epochs": 2, "channels": 4, "layers": 3}
    training = {"trainable": "train", "trainable_options": {"device": "cpu", "recipe": "quick", "batch_size": 32}}
    common = {"space": "darts", "dataset": "digits", "searcher": "darts", "trials": 4, "seed": 7, "max_epochs": 1}
    return RunConfig(**common | training | {"searcher_options": options} | changes)


def old_config() -> dict[str, Any]:
    """The same as a run folder of version 0.1 holds it."""
    options = {"epochs": 2, "channels": 4, "layers": 3, "device": "cpu", "retrain": {"recipe": "quick", "batch_size": 32}}
    common = {"space": "darts", "dataset": "digits", "trainable": "darts", "searcher": "bananas", "searcher_options": {}}
    return common | {"trials": 4, "seed": 7, "max_epochs": 1, "trainable_options": options}


def test_runs_of_the_old_spelling_go_on(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path), "config.json", {"config": old_config()})
    expected = config(searcher_options={"epochs": 2, "channels": 4, "layers": 3, "device": "cpu"})
    assert resumed_run(str(tmp_path), {}) == expected
    assert resumed_run(str(tmp_path), {"trainable": "darts", "trials": 5}) == expected.model_copy(update={"trials": 5})
    with pytest.raises(ResumeError, match="searcher = 'darts', so it cannot go on with 'random-ws'"):
        resumed_run(str(tmp_path), {"searcher": "random-ws"})


def row(seed: int, arch: str | None, error: str | None = None) -> dict[str, Any]:
    found = None if arch is None else SPACE.from_genotype(**GENOTYPES[arch]).to_config()
    outcome = {"status": "failed" if error else "finished", "valid_accuracy": 0.5, "arch": found, "error": error}
    return {"seed": seed, "epoch": 2, "seconds": 1.0, "checkpoint": None} | outcome


def prepared(run: Path) -> None:
    """A folder in which four searches have ended."""
    storage.write_json(str(run), "config.json", {"config": old_config()})
    rows = [row(7, "DARTS_V1"), row(8, "DARTS_V2"), row(9, None, "it diverged"), row(10, "DARTS_V1")]
    storage.write_json(str(run), "oneshot.json", rows)


def test_equal_architectures_are_trained_once(tmp_path: Path) -> None:
    prepared(tmp_path / "run")
    method, console = oneshot_method("darts", config().searcher_options), Console(file=io.StringIO(), width=300)
    assert method is not None
    store = Writer(str(tmp_path / "run"), print, lambda: None)
    found = Supernets(method, config(), str(tmp_path / "run")).search(1, console, store)
    store.close()
    assert [arch.id for arch in found] == [SPACE.from_genotype(**GENOTYPES[f"DARTS_V{i}"]).id for i in (1, 2)]
    console.file.seek(0)
    assert console.file.read().startswith("searches: 4, different architectures found: 2, 1 failed (it diverged); each is trained once")


def test_a_search_uses_the_data_and_the_device_of_the_training(tmp_path: Path) -> None:
    options = {"device": "cpu", "data_dir": str(tmp_path)}
    for own, expected in (({}, options), ({"device": "cuda:7"}, options | {"device": "cuda:7"})):
        method = oneshot_method("test_oneshot_search:Unchecked", own)
        assert method is not None
        searches = Supernets(method, config(searcher="test_oneshot_search:Unchecked", trainable_options=options), str(tmp_path))
        assert {key: searches.trial_config[key] for key in options} == expected


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "raynas.search", *map(str, arguments)]


def environment(log: Path) -> dict[str, str]:
    return os.environ | {LOG: str(log), "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).resolve().parents[:2]))}


@pytest.mark.slow
def test_a_run_ends_with_as_many_trials_as_there_are_architectures(tmp_path: Path) -> None:
    prepared(tmp_path / "run")
    done = subprocess.run(command("--resume", tmp_path / "run"), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "2/2 trials (2 finished" in done.stdout
    trials = results.read(str(tmp_path / "run")).trials.to_pylist()
    assert {trial["arch_id"] for trial in trials} == {SPACE.from_genotype(**GENOTYPES[f"DARTS_V{i}"]).id for i in (1, 2)}
    assert {(trial["status"], trial["epochs"]) for trial in trials} == {("finished", 1)}


@pytest.mark.slow
def test_darts_finds_a_cell_of_digits_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--set", "searcher_options.epochs=1", "--set", "searcher_options.batch_size=256", "--set", "searcher_options.order=1"]
    flags = [*FLAGS, *SIZES, *options, "--trials", "1", "--max-epochs", "2", "--out", "run"]
    done = subprocess.run(command(*flags), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (found,) = storage.read_json("run", "oneshot.json")
    assert (found["seed"], found["status"], found["epoch"], found["checkpoint"]) == (0, "finished", 1, None)
    (trial,) = results.read("run").trials.to_pylist()
    assert (trial["arch_id"], trial["status"], trial["epochs"]) == (found["arch"]["id"], "finished", 2)
    assert trial["valid_accuracy"] > 0.2  # chance is 0.1
    best = json.loads(Path("run/best.json").read_text())
    assert best["arch"] == found["arch"]
    assert best["train"] == "python -m raynas.train --arch run/best.json --dataset digits --recipe quick"
    stored = json.loads(Path("run/config.json").read_text())["config"]
    assert (stored["searcher"], stored["trainable"], stored["trials"], stored["recipe"]) == ("darts", "train", 1, "quick")
    assert not Path("run/oneshot").exists()


@pytest.mark.slow
def test_killed_searches_go_on(tmp_path: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    options = {"epochs": 6, "channels": 4, "layers": 3, "rounds": 1, "samples": 5, "finalists": 2}
    sets = [part for key, value in options.items() for part in ("--set", f"searcher_options.{key}={value}")]
    flags = [
        "--space",
        "darts",
        "--dataset",
        "digits",
        "--searcher",
        "test_oneshot_search:LoggedSearch",
        "--trials",
        "2",
        "--max-epochs",
        "1",
    ]
    flags += [*sets, "--max-epochs", "1", "--recipe", "quick", "--concurrency", "1", "--out", str(run)]
    process = subprocess.Popen(command(*flags), env=environment(log), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def under_way() -> list[int]:
        rows = storage.read_json(str(run), "oneshot.json") if storage.exists(str(run), "oneshot.json") else []
        return [row["checkpoint"]["training_iteration"] for row in rows if row["checkpoint"]]

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (under_way() and under_way()[0] >= 2):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (saved,) = under_way()
    assert saved < 7  # else the test shows nothing
    done = subprocess.run(command("--resume", run), env=environment(log), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in log.read_text().splitlines()]
    epochs = {seed: [int(epoch) for name, epoch in steps if name == seed] for seed in ("0", "1")}
    assert epochs["1"] == [1, 2, 3, 4, 5, 6, 7]
    assert epochs["0"][-(7 - saved) :] == list(range(saved + 1, 8))  # from the checkpoint on
    assert len(epochs["0"]) < 7 + saved
    rows = storage.read_json(str(run), "oneshot.json")
    trial = RandomTrial({"dataset": "digits", "seed": 0} | options)
    last = reports(trial)[-1]
    assert (rows[0]["valid_accuracy"], rows[0]["arch"]) == (last["valid_accuracy"], json.loads(last["arch"]))
    assert {row["status"] for row in rows} == {"finished"}
    assert {trial["arch_id"] for trial in results.read(str(run)).trials.to_pylist()} == {row["arch"]["id"] for row in rows}


@pytest.mark.slow
def test_a_run_without_any_architecture_fails(tmp_path: Path) -> None:
    options = {"epochs": 2, "channels": 2, "layers": 3, "learning_rate": "1.0e+30", "clip": "1.0e+30", "retrain.recipe": "quick"}
    sets = [part for key, value in options.items() for part in ("--set", f"trainable_options.{key}={value}")]
    flags = ["--space", "darts", "--dataset", "test_oneshot:few", "--trainable", "random-ws", "--trials", "1", *sets]
    run = tmp_path / "run"
    flags += ["--out", str(run)]
    done = subprocess.run(command(*flags), env=environment(tmp_path / "log"), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1, done.stderr
    assert "searches: 1, different architectures found: 0, 1 failed" in done.stdout
    assert "the supernet diverged" in storage.read_json(str(run), "oneshot.json")[0]["error"]
    assert len(results.read(str(run)).trials) == 0


@pytest.mark.parametrize(
    ("given", "trials", "trainable"),
    [
        ({"searcher": "darts"}, 4, "train"),
        ({"searcher": "pc-darts", "trials": 7}, 7, "train"),
        ({"searcher": "random-ws", "trainable": "lookup"}, 4, "lookup"),
        ({"trainable": "darts"}, 4, "train"),
        ({"trainable": "train"}, 150, "train"),
    ],
)
def test_there_are_four_seeds_unless_told_otherwise(given: dict[str, Any], trials: int, trainable: str, tmp_path: Path) -> None:
    config, _ = new_run({"space": "darts", "out": str(tmp_path / "run")} | given)
    assert (config.trials, config.trainable) == (trials, trainable)


def test_a_search_that_its_machine_fails_is_tried_again(tmp_path: Path) -> None:
    output, retries = io.StringIO(), Retries(3)
    log = SearchLog(str(tmp_path), range(4, 5), Writer(str(tmp_path), print, lambda: None), Console(file=output, width=200), retries)
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at 2026-11-24_23-14-55)\nits node has died\n")
    trial = SimpleNamespace(trial_id="t", config={"seed": 4}, last_result={}, error_file=str(tmp_path / "error.txt"))
    assert retries.judge(trial, RayActorError(), False) == 1
    log.on_trial_recover(0, [], trial)
    assert output.getvalue() == "seed 4 lost (machine): NodeDiedError: its node was lost; tried again in 1 s (1 of 3)\n"
    assert log.open == [4]
