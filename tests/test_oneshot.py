"""One-shot searches: the trials."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raynas.errors import RaynasError, ResumeError
from raynas.spaces import make_space
from raynas.spaces.darts import DARTSSpace
from trainables.learning.networks.supernet import chosen
from trainables.learning.trainer import TrainingError
from trainables.oneshot import DartsTrial, OneShotTrial, PCDartsTrial, RandomTrial

SMALL = {"dataset": "test_oneshot:few", "channels": 2, "layers": 3, "batch_size": 16, "device": "cpu", "seed": 5}
SPACE = DARTSSpace()


def few() -> dict[str, Any]:
    """60 images of 8x8 digits from 0 to 2, and 9 to test."""
    from sklearn.datasets import load_digits

    loaded = load_digits(n_class=3)
    images = torch.from_numpy(loaded.images / 16).float()[:, None]
    labels = torch.from_numpy(loaded.target)
    return {"train": (images[:60], labels[:60]), "test": (images[60:69], labels[60:69]), "mirrored": False}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "tune"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    torch.manual_seed(0)


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


def test_options_are_checked_in_a_plan_too() -> None:
    with pytest.raises(RaynasError, match="unknown data set"):
        DartsTrial.plan(space="darts", dataset="digit", seed=0)
    assert RandomTrial.plan(space="darts", dataset="test_oneshot:few", seed=0, channels=2, layers=3, epochs=3, rounds=2).max_epochs == 5


def test_searches_of_digits_are_small_unless_told_otherwise() -> None:
    assert RandomTrial.plan(space="darts", dataset="digits", seed=0).max_epochs == 10 + 1
    assert RandomTrial.plan(space="darts", dataset="digits", seed=0, epochs=3, rounds=2).max_epochs == 5
    assert DartsTrial.plan(space="darts", dataset="test_oneshot:few", seed=0, channels=2, layers=3).max_epochs == 50
