"""Folders of more images than memory should hold: they are read while a network is trained."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import trainables.learning.data
import trainables.learning.photos
import trainables.learning.splits
from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.spaces import make_space
from trainables.learning.data import Data, DataError, load
from trainables.learning.recipes import make_recipe
from trainables.learning.splits import StreamedSplit
from trainables.learning.trainer import Trainer
from trainables.oneshot import DartsTrial

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainables.learning.splits, "READERS", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """3 classes of 20 images of 8x8 pixels."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def streamed(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Data:
    with monkeypatch.context() as patch:
        patch.setattr(trainables.learning.data, "IN_MEMORY", 0)
        return load(f"folder:{folder}", 0, **options)


def trainer(data: Data, **options: Any) -> Trainer:
    space = make_space("nasbench201")
    arch: Arch = space.sample(np.random.default_rng(1))
    return Trainer(space, arch, data, make_recipe("quick", space), CPU, 0, epochs=2, batch_size=16, **options)


def same(a: Trainer, b: Trainer) -> bool:
    states = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("readers", [0, 1])
def test_a_streamed_training_is_equal_bit_for_bit_also_when_it_goes_on(folder: Path, readers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainables.learning.splits, "READERS", readers)
    whole, parts = load(f"folder:{folder}", 0), streamed(folder, monkeypatch)
    assert isinstance(parts.train, StreamedSplit)
    assert not isinstance(whole.train, StreamedSplit)
    assert replace(parts, train=whole.train, valid=whole.valid, test=whole.test) == whole  # also mean and deviation
    held, first, second = trainer(whole), trainer(parts), trainer(parts)
    expected = [held.train_epoch() for _ in range(2)]
    reports = [first.train_epoch()]
    assert first.evaluate("valid") is not None
    second.load_state_dict(first.state_dict())
    reports.append(second.train_epoch())
    for report, other in zip(reports, expected, strict=True):
        assert {**report, "train_seconds": 0} == {**other, "train_seconds": 0}
    assert same(held, second)
    assert not same(held, first)
    for split in ("valid", "test"):
        assert held.evaluate(split) == second.evaluate(split)  # type: ignore[arg-type]


def test_batches_have_the_same_values_and_leave_the_global_generator_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = load(f"folder:{folder}", 0).test, streamed(folder, monkeypatch).test
    indices = torch.tensor([5, 0, 7]), torch.tensor([2, 2])
    state = torch.get_rng_state()
    for (images, labels), (expected, known) in zip(parts.batches(indices), whole.batches(indices), strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, known)
    assert torch.equal(torch.get_rng_state(), state)


def test_of_a_share_only_its_images_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = load(f"folder:{folder}", 0).train, streamed(folder, monkeypatch).train
    chosen = torch.arange(5)
    for rank in range(2):
        ((images, labels),) = parts.batches([chosen], (rank, 2))
        read = images.flatten(1).any(1)
        assert read.tolist() == [(i < 3) == (rank == 0) for i in range(5)]  # tensor_split: 3 and 2
        assert torch.equal(images[read], next(whole.batches([chosen]))[0][read])
        assert torch.equal(labels, whole.labels[:5])


def test_mean_and_deviation_of_some_images_are_about_those_of_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainables.learning.splits, "SAMPLE", (10, 2**28))
    whole, parts, again = load(f"folder:{folder}", 0), streamed(folder, monkeypatch), streamed(folder, monkeypatch)
    assert parts.mean == again.mean != whole.mean
    assert parts.mean == pytest.approx(whole.mean, abs=0.06)  # of 640 values, whose deviation is 0.29
    assert parts.std == pytest.approx(whole.std, abs=0.06)


@pytest.mark.parametrize("readers", [0, 1])
def test_an_image_of_another_size_is_named_in_one_line(folder: Path, readers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainables.learning.splits, "READERS", readers)
    data = streamed(folder, monkeypatch)
    assert isinstance(data.train, StreamedSplit)
    path = Path(str(data.train.files.paths[3]))
    Image.new("RGB", (9, 8)).save(path)
    with pytest.raises(DataError, match=f"{path.parent.name}/{path.name} has 9x8, the first one 8x8") as caught:
        trainer(data).train_epoch()
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # PyTorch waits for the lost process
def test_a_reader_that_is_killed_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = streamed(folder, monkeypatch)
    monkeypatch.setattr(trainables.learning.photos, "pixels", lambda path, view: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match=r"a process that reads images was lost .*enough memory") as caught:
        trainer(data).train_epoch()
    assert "\n" not in str(caught.value)


def test_images_that_are_not_square_are_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("RGB", (8, 6)).save(tmp_path / name / f"{i}.png")
    with pytest.raises(DataError, match=r"must be square and of one size.*: .*cat/0.png has 8x6"):
        streamed(tmp_path, monkeypatch)


def test_nothing_held_out_is_nothing_to_evaluate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = streamed(folder, monkeypatch, validation=0.0)
    assert (len(data.train), len(data.valid), len(data.test)) == (48, 0, 12)
    assert trainer(data).evaluate("valid") is None


def test_a_one_shot_search_needs_its_images_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainables.learning.data, "IN_MEMORY", 0)
    with pytest.raises(ConfigError, match="one-shot searches hold all images in memory"):
        DartsTrial.plan(space="darts", dataset=f"folder:{folder}", seed=0)
