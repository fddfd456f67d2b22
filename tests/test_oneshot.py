"""One-shot searches: the trials, and their place in `python -m raynas.search`."""

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

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from raynas import results, search, storage
from raynas.config import RunConfig
from raynas.errors import RaynasError, ResumeError
from raynas.run.supernets import OneShot, is_oneshot
from raynas.search import main
from raynas.spaces import make_space
from raynas.spaces.darts import GENOTYPES, DARTSSpace
from trainables.learning.networks.supernet import chosen
from trainables.learning.trainer import TrainingError
from trainables.oneshot import DartsTrial, OneShotTrial, PCDartsTrial, RandomTrial

LOG = "TEST_ONESHOT_LOG"
SMALL = {"dataset": "test_oneshot:few", "channels": 2, "layers": 3, "batch_size": 16, "device": "cpu", "seed": 5}
SPACE = DARTSSpace()


def few() -> dict[str, Any]:
    """60 images of 8x8 digits from 0 to 2, and 9 to test."""
    from sklearn.datasets import load_digits

    loaded = load_digits(n_class=3)
    images = torch.from_numpy(loaded.images / 16).float()[:, None]
    labels = torch.from_numpy(loaded.target)
    return {"train": (images[:60], labels[:60]), "test": (images[60:69], labels[60:69]), "mirrored": False}


class LoggedSearch(RandomTrial):
    """Notes every step in the file that an environment variable names."""

    def step(self) -> dict[str, Any]:
        report = super().step()
        with open(os.environ[LOG], "a") as file:
            file.write(f"{self._seed} {report['epoch']}\n")
        return report


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "tune"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    torch.manual_seed(0)


# -- the trials ----------------------------------------------------------------------------------------------------------


def make(kind: type[OneShotTrial], **options: Any) -> OneShotTrial:
    scaled = {"rounds": 1, "samples": 4, "batches": 1, "finalists": 2} if issubclass(kind, RandomTrial) else {}
    return kind({"epochs": 2} | SMALL | scaled | options)


def reports(trial: OneShotTrial) -> list[dict[str, Any]]:
    """All reports until done, without the time they took."""
    found = []
    while not found or not found[-1]["done"]:
        found.append(trial.step())
    return [{key: value for key, value in report.items() if key != "train_seconds"} for report in found]


def test_the_defaults_are_the_published_settings() -> None:
    common = {"layers": 8, "learning_rate_min": 0.001, "momentum": 0.9, "weight_decay": 3e-4, "validation": 0.5, "padding": None}
    darts = {"epochs": 50, "channels": 16, "clip": 5.0, "alpha_weight_decay": 1e-3} | common
    for trial, settings in {
        DartsTrial: darts | {"order": 2, "batch_size": 64, "learning_rate": 0.025, "alpha_learning_rate": 3e-4, "partial": 1},
        PCDartsTrial: darts | {"order": 1, "batch_size": 256, "learning_rate": 0.1, "alpha_learning_rate": 6e-4, "partial": 4},
        RandomTrial: common | {"epochs": 150, "channels": 24, "clip": 1.0, "batch_size": 64, "rounds": 5, "samples": 1000, "finalists": 10},
    }.items():
        options = trial.Options()
        assert {name: getattr(options, name) for name in settings} == settings
    assert PCDartsTrial.Options().warmup * PCDartsTrial.Options().epochs == 15


@pytest.mark.parametrize("options", [{"order": 1}, {"order": 2}, {"order": 1, "partial": 2}], ids=str)
def test_darts_alternates(options: dict[str, Any]) -> None:
    trial = make(DartsTrial, **options)
    alphas = [alpha.detach().clone() for alpha in trial._alphas]
    first, second = reports(trial)
    assert all((alpha != old).any() for alpha, old in zip(trial._alphas, alphas, strict=True))
    assert max(float((alpha - old).detach().abs().max()) for alpha, old in zip(trial._alphas, alphas, strict=True)) < 4 * 2 * 3e-4
    assert (first["epoch"], first["done"], second["epoch"], second["done"]) == (1, False, 2, True)
    assert second["train_loss"] < first["train_loss"]
    assert 0 <= second["valid_accuracy"] <= 1
    arch = SPACE.from_config(json.loads(second["arch"]))
    assert arch == trial._supernet.derive()
    assert trial._optimizer.param_groups[0]["lr"] == pytest.approx(0.001 + 0.024 / 2)  # half way along the cosine


def test_strengths_wait_for_the_end_of_the_warmup() -> None:
    trial = make(DartsTrial, order=1, warmup=0.5)
    alphas = [alpha.detach().clone() for alpha in trial._alphas]
    trial.step()
    assert all(torch.equal(alpha, old) for alpha, old in zip(trial._alphas, alphas, strict=True))
    trial.step()
    assert not any(torch.equal(alpha, old) for alpha, old in zip(trial._alphas, alphas, strict=True))


def test_strengths_learn_on_other_images_than_the_weights() -> None:
    trial, seen = make(DartsTrial, order=1, epochs=1), []
    inner = trial._batch
    trial._batch = lambda split, indices, generator: seen.append(split.images[indices]) or inner(split, indices, generator)  # type: ignore[method-assign]
    trial.step()
    weights, alphas = ({image.numpy().tobytes() for part in seen[i::2] for image in part} for i in (0, 1))
    assert len(weights) == 30  # half of the images, each once
    assert not weights & alphas


def test_random_search_trains_one_cell_a_step_and_takes_the_best() -> None:
    trial = make(RandomTrial, rounds=2)
    first, second, third, fourth = reports(trial)
    assert (first["arch"], second["arch"]) == (None, None)
    assert second["train_loss"] > 0
    assert [report["done"] for report in (first, second, third, fourth)] == [False, False, False, True]
    assert fourth["valid_accuracy"] >= third["valid_accuracy"]
    best = SPACE.from_config(json.loads(fourth["arch"]))
    assert trial._accuracy(best) == fourth["valid_accuracy"]
    # Only the weights of the newest cell have learned in the last step.
    learned = [edge.ops[op] for edge, op in zip(trial._supernet.cells[0].edges, chosen(trial._newest["normal"]), strict=True) if op]
    gradients = {id(weight) for weight in trial._weights if weight.grad is not None}
    inside = {id(weight) for edge in trial._supernet.cells[0].edges for weight in edge.parameters()}
    assert gradients & inside == {id(weight) for op in learned for weight in op.parameters()}


def test_a_round_keeps_the_best_finalist() -> None:
    trial = make(RandomTrial, samples=6, finalists=3)
    space, asked = make_space("darts"), []
    cells = [space.sample(np.random.default_rng(i)) for i in range(6)]
    some = dict(zip([cell.id for cell in cells], [0.1, 0.5, 0.4, 0.2, 0.6, 0.3], strict=True))
    every = dict(zip([cell.id for cell in cells], [0.9, 0.3, 0.7, 0.9, 0.5, 0.9], strict=True))
    drawn = iter(cells)
    trial._space = type("Space", (), {"sample": lambda self, rng: next(drawn)})()

    def accuracy(arch: Any, indices: Tensor | None = None) -> float:
        asked.append(indices)
        return every[arch.id] if indices is None else some[arch.id]

    trial._accuracy = accuracy  # type: ignore[method-assign]
    assert trial._round(np.random.default_rng(0)) == (0.7, json.dumps(cells[2].to_config()))
    assert [indices is None for indices in asked] == [False] * 6 + [True] * 3
    assert len(asked[0]) == 16  # one batch


@pytest.mark.parametrize(("kind", "options"), [(DartsTrial, {}), (PCDartsTrial, {"partial": 2}), (RandomTrial, {"rounds": 2})])
def test_a_restored_search_goes_on_equally(kind: type[OneShotTrial], options: dict[str, Any], tmp_path: Path) -> None:
    whole, half, other = (make(kind, **options) for _ in range(3))
    expected = reports(whole)
    for _ in range(len(expected) - 1):
        half.step()
    half.save_checkpoint(str(tmp_path))
    other.load_checkpoint(str(tmp_path))
    assert reports(other) == expected[-1:]
    once, again = whole._supernet.state_dict(), other._supernet.state_dict()
    assert [name for name, value in once.items() if not torch.equal(again[name], value)] == []


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    trial = make(DartsTrial, order=1)
    trial.save_checkpoint(str(tmp_path))
    with pytest.raises(ResumeError, match="another search: its seed is 5, here it is 6"):
        make(DartsTrial, order=1, seed=6).load_checkpoint(str(tmp_path))
    with pytest.raises(ResumeError, match="another search: its channels is 2, here it is 4"):
        make(DartsTrial, order=1, channels=4).load_checkpoint(str(tmp_path))
    (tmp_path / "state.pt").write_bytes(b"PK")
    trial.load_checkpoint(str(tmp_path))
    report = trial.step()
    assert report["epoch"] == 1
    assert "cannot be read, so it begins again" in report["warning"]
    assert trial.step()["warning"] is None


def test_a_supernet_that_diverges_fails() -> None:
    trial = make(RandomTrial, learning_rate=1e30, clip=1e30)
    with pytest.raises(TrainingError, match=r"the supernet diverged: the loss of epoch [12]"):
        reports(trial)


# -- in a search ---------------------------------------------------------------------------------------------------------

FLAGS = ["--space", "darts", "--dataset", "digits", "--trainable", "darts"]
SIZES = ["--set", "trainable_options.channels=4", "--set", "trainable_options.layers=3", "--set", "trainable_options.retrain.recipe=quick"]

BAD = {
    "space": (["--space", "nasbench201"], "--space darts"),
    "searcher": (["--searcher", "random"], "searches by itself; leave out the searcher 'random'"),
    "searcher's options": (["--set", "searcher_options.pool=9"], "searches by itself"),
    "option": (["--set", "trainable_options.epoch=9"], "did you mean 'epochs'"),
    "type": (["--set", "trainable_options.order=3"], "option order of trainable 'darts' cannot be 3"),
    "value": (["--set", "trainable_options.epochs=0"], "epochs of a one-shot search must be at least 1, not 0"),
    "fraction": (["--set", "trainable_options.validation=1.0"], "must lie between 0 and 1"),
    "size": (["--set", "trainable_options.partial=3"], "partial must divide the channels"),
    "option of another method": (["--set", "trainable_options.rounds=3"], "unknown option of trainable 'darts'"),
    "retrain": (["--set", "trainable_options.retrain=quick"], "option retrain of trainable 'darts' cannot be 'quick'"),
    "option of the training": (["--set", "trainable_options.retrain.recipee=quick"], "did you mean 'recipe'"),
    "recipe": (["--set", "trainable_options.retrain.recipe=darts-final"], "no validation images"),
    "table": (["--table", "t.parquet"], "reads no table"),
    "data set": (["--dataset", "digit"], "did you mean 'digits'"),
    "trainable": (["--trainable", "dart"], "did you mean 'darts'"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_get_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, message = BAD[case]
    assert main([*FLAGS, *SIZES, *flags, "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert message in printed
    assert not (tmp_path / "run").exists()


def test_who_is_a_one_shot_search() -> None:
    names = ("darts", "pc-darts", "random-ws", "test_oneshot:LoggedSearch", "train", "lookup")
    assert [is_oneshot(name) for name in names] == [True] * 4 + [False] * 2


def config(**changes: Any) -> RunConfig:
    options = {"epochs": 2, "channels": 4, "layers": 3, "device": "cpu", "retrain": {"recipe": "quick", "batch_size": 32}}
    common = {"space": "darts", "dataset": "digits", "trainable": "darts", "trials": 4, "seed": 7, "max_epochs": 1}
    return RunConfig(**common | {"trainable_options": options} | changes)


def row(seed: int, arch: str | None, error: str | None = None) -> dict[str, Any]:
    found = None if arch is None else SPACE.from_genotype(**GENOTYPES[arch]).to_config()
    outcome = {"status": "failed" if error else "finished", "valid_accuracy": 0.5, "arch": found, "error": error}
    return {"seed": seed, "epoch": 2, "seconds": 1.0, "checkpoint": None} | outcome


def prepared(run: Path) -> None:
    """A folder in which four searches have ended."""
    storage.write_json(str(run), "config.json", {"config": config().model_dump()})
    rows = [row(7, "DARTS_V1"), row(8, "DARTS_V2"), row(9, None, "it diverged"), row(10, "DARTS_V1")]
    storage.write_json(str(run), "oneshot.json", rows)


def test_equal_architectures_are_trained_once(tmp_path: Path) -> None:
    prepared(tmp_path / "run")
    search, console = OneShot(config(), str(tmp_path / "run")), Console(file=io.StringIO(), width=300)
    assert search.retraining.trainable == "train"
    assert search.retraining.trainable_options == {"device": "cpu", "recipe": "quick", "batch_size": 32}
    assert [arch.id for arch in search.search(1, console)] == [SPACE.from_genotype(**GENOTYPES[f"DARTS_V{i}"]).id for i in (1, 2)]
    console.file.seek(0)
    assert console.file.read().startswith("searches: 4, different architectures found: 2, 1 failed (it diverged); each is trained once")


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
    options = ["--set", "trainable_options.epochs=1", "--set", "trainable_options.batch_size=256", "--set", "trainable_options.order=1"]
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
    assert json.loads(Path("run/config.json").read_text())["config"]["trainable"] == "darts"
    assert not Path("run/oneshot").exists()


@pytest.mark.slow
def test_killed_searches_go_on(tmp_path: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    options = {"epochs": 6, "channels": 4, "layers": 3, "rounds": 1, "samples": 5, "finalists": 2}
    sets = [part for key, value in options.items() for part in ("--set", f"trainable_options.{key}={value}")]
    flags = ["--space", "darts", "--dataset", "digits", "--trainable", "test_oneshot:LoggedSearch", "--trials", "2", "--max-epochs", "1"]
    flags += [*sets, "--set", "trainable_options.retrain.recipe=quick", "--concurrency", "1", "--out", str(run)]
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


def test_options_are_checked_in_a_plan_too() -> None:
    with pytest.raises(RaynasError, match="unknown data set"):
        DartsTrial.plan(space="darts", dataset="digit", seed=0)
    assert RandomTrial.plan(space="darts", dataset="test_oneshot:few", seed=0, channels=2, layers=3, epochs=3, rounds=2).max_epochs == 5


def test_searches_of_digits_are_small_unless_told_otherwise() -> None:
    assert RandomTrial.plan(space="darts", dataset="digits", seed=0).max_epochs == 10 + 1
    assert RandomTrial.plan(space="darts", dataset="digits", seed=0, epochs=3, rounds=2).max_epochs == 5
    assert DartsTrial.plan(space="darts", dataset="test_oneshot:few", seed=0, channels=2, layers=3).max_epochs == 50


@pytest.mark.parametrize(("flags", "trials"), [([], 4), (["--trials", "7"], 7), (["--trainable", "train"], 150)])
def test_there_are_four_seeds_unless_told_otherwise(flags: list[str], trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def run(config: RunConfig, *_: Any) -> Any:
        seen.append(config.trials)
        return SimpleNamespace(run=lambda: 0)

    monkeypatch.setattr(search, "Search", run)
    assert main([*FLAGS, *flags]) == 0
    assert seen == [trials]
