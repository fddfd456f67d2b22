"""A data set that a user's own function returns: `--dataset module:function`."""

import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from raynas import results
from raynas.errors import RaynasError, UnknownNameError
from trainables.learning.data import Data, DataError, load

IMAGES, LABELS = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
TRAIN = (IMAGES, LABELS)
_numbers = count()


class Pictures:
    """In the manner of torchvision's data sets."""

    def __init__(self, size: int, images: list[Image.Image]) -> None:
        self.size, self.images = size, images

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[index % len(self.images)], index % 3


def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: Any, **options: Any) -> Data:
    """What `load` makes of a function in a module of the user's."""
    module = f"data_of_mine_{next(_numbers)}"
    (tmp_path / f"{module}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    __import__(module)
    monkeypatch.setattr(sys.modules[module], "mine", function, raising=False)
    return load(f"{module}:mine", 0, **options)


def test_tensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = loaded(monkeypatch, tmp_path, lambda: {"train": TRAIN})
    assert (data.classes, data.image_size, data.channels, data.mirrored) == (3, 8, 1, True)
    assert (len(data.train), len(data.valid), len(data.test)) == (19, 5, 6)
    for split in (data.train, data.valid, data.test):
        for image, label in zip(split.images, split.labels, strict=True):
            row = int((image == IMAGES).all((1, 2, 3)).nonzero()[0])
            assert int(label) == row % 3


def test_its_own_splits_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    valid, test = (IMAGES[:9], LABELS[:9]), (IMAGES[9:13].numpy(), LABELS[9:13].numpy())
    made = {"train": TRAIN, "valid": valid, "test": test, "classes": 3, "mirrored": False}
    data = loaded(monkeypatch, tmp_path, lambda: made, validation=0.5)
    assert torch.equal(data.train.images, IMAGES)
    assert torch.equal(data.valid.images, valid[0])
    assert np.array_equal(data.test.images.numpy(), test[0])
    assert torch.equal(data.valid.labels, LABELS[:9])
    assert not data.mirrored


def test_whole_numbers_are_scaled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = (255 * IMAGES).byte()
    data = loaded(monkeypatch, tmp_path, lambda: {"train": TRAIN, "test": (whole, LABELS)})
    assert torch.equal(data.test.images, whole)
    ((images, _),) = data.test.batches([torch.arange(30)])
    assert torch.allclose(images, whole / 255)


def test_data_sets_of_items(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pixels = np.arange(9 * 9 * 3, dtype=np.uint8).reshape(9, 9, 3)
    data = loaded(monkeypatch, tmp_path, lambda: {"train": Pictures(20, [Image.fromarray(pixels)])}, validation=0.0)
    assert np.array_equal(data.train.images[0].numpy(), pixels.transpose(2, 0, 1))
    grey = loaded(monkeypatch, tmp_path, lambda: {"train": Pictures(20, [Image.fromarray(pixels[:, :, 0])])})
    assert grey.train.images.shape[1:] == (1, 9, 9)
    tensors = loaded(monkeypatch, tmp_path, lambda: {"train": TRAIN, "test": TensorDataset(IMAGES, LABELS)})
    assert torch.equal(tensors.test.images, IMAGES)
    assert torch.equal(tensors.test.labels, LABELS)


def test_the_function_gets_the_keywords_that_it_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def function(*, data_dir: Path, seed: int = 7, further: int = 3) -> dict[str, Any]:
        seen.update(data_dir=data_dir, seed=seed, further=further)
        return {"train": TRAIN}

    loaded(monkeypatch, tmp_path, function, data_dir=tmp_path / "data")
    assert seen == {"data_dir": tmp_path / "data", "seed": 0, "further": 3}


def raising() -> None:
    raise KeyError("where are\nmy images")


WRONG = {
    "no mapping": (lambda: TRAIN, "must return a mapping with the key train.*it returned tuple"),
    "no train": (lambda: {"test": TRAIN}, "it returned the keys test"),
    "unknown key": (lambda: {"train": TRAIN, "tset": TRAIN}, "train, and if need be valid, test, .*the keys train, tset"),
    "no images": (lambda: {"train": 3}, "train of .* must be a pair .images, labels.*not int"),
    "three dimensions": (lambda: {"train": (IMAGES[:, 0], LABELS)}, r"must be images \(n, c, h, w\).*not \(30, 8, 8\) and \(30,\)"),
    "fewer labels": (lambda: {"train": (IMAGES, LABELS[:9])}, r"not \(30, 1, 8, 8\) and \(9,\)"),
    "label fractions": (lambda: {"train": (IMAGES, LABELS / 2)}, "whole numbers, not float32"),
    "normalised": (lambda: {"train": (IMAGES - 1, LABELS)}, r"must lie in \[0, 1\]"),
    "not a number": (lambda: {"train": (IMAGES * torch.nan, LABELS)}, r"must lie in \[0, 1\], not in \[nan, nan\]"),
    "signed pixels": (lambda: {"train": (IMAGES.int(), LABELS)}, "must be uint8 in .*not int32"),
    "labels from 1": (lambda: {"train": (IMAGES, LABELS + 1)}, "labels in train of .* must be all of 0 to 2 .*they are 1, 2, 3"),
    "one class": (lambda: {"train": (IMAGES, LABELS * 0)}, "2 classes at least.*they are 0$"),
    "more classes than labels": (lambda: {"train": TRAIN, "classes": 10}, "must be all of 0 to 9 .*they are 0, 1, 2"),
    "fewer classes than labels": (lambda: {"train": TRAIN, "classes": 2}, "must be all of 0 to 1"),
    "classes in words": (lambda: {"train": TRAIN, "classes": "three"}, "must be a whole number or a list of names, not 'three'"),
    "test label": (lambda: {"train": TRAIN, "test": (IMAGES, LABELS + 1)}, "the label 3 in test of .* lies outside of 0 to 2"),
    "test size": (lambda: {"train": TRAIN, "test": (IMAGES[:, :, 1:, 1:], LABELS)}, "one size.*: 1 x 8 x 8, 1 x 8 x 8, 1 x 7 x 7"),
    "not square": (lambda: {"train": (IMAGES[:, :, 1:], LABELS)}, "square images.*1 x 7 x 8"),
    "mixed sizes": (
        lambda: {"train": Pictures(6, [Image.new("L", (8, 8)), Image.new("L", (9, 9))])},
        r"\(1, 8, 8\) and \(1, 9, 9\); resize",
    ),
    "no item": (lambda: {"train": Pictures(0, [])}, "they are none"),
    "few images": (lambda: {"train": (IMAGES[:3], LABELS[:3]), "test": (IMAGES[:0], LABELS[:0])}, "2 images to train on and 0 to test"),
    "error": (raising, r"raised KeyError in line \d+ of .*test_user_data.py: 'where are"),
    "no function": (TRAIN, "must be a function that returns a data set, not tuple"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_one_clear_line(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    function, message = WRONG[case]
    with pytest.raises(DataError, match=message) as caught:
        loaded(monkeypatch, tmp_path, function)
    assert "\n" not in str(caught.value)


def test_its_own_complaint_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def function() -> None:
        raise RaynasError("mount the disk first")

    with pytest.raises(RaynasError, match=r"^mount the disk first$"):
        loaded(monkeypatch, tmp_path, function)


def test_a_function_that_is_not_there() -> None:
    for name in ("no_module_of_mine:data", "raynas.errors:data"):
        with pytest.raises(UnknownNameError, match=f"data set '{name}' cannot be imported"):
            load(name, 0)


MODULE = """
from sklearn.datasets import load_digits

def digits(seed):
    loaded = load_digits()
    return {"train": (loaded.images[:, None] / 16, loaded.target), "mirrored": False}
"""


@pytest.mark.slow
def test_a_search_trains_on_it(tmp_path: Path) -> None:
    (tmp_path / "my_images.py").write_text(MODULE)
    command = [sys.executable, "-m", "raynas.search", "--space", "nasbench201", "--trainable", "train", "--dataset", "my_images:digits"]
    options = ["--trials", "2", "--max-epochs", "2", "--out", "run", "--set", "trainable_options.recipe=quick"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    trials = results.read(str(tmp_path / "run")).trials.to_pylist()
    assert [row["status"] for row in trials] == ["finished"] * 2
