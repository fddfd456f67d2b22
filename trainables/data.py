"""Image classification data as tensors, split into training, validation and test images.

n: images, c: channels, h and w: height and width in pixels.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raynas.errors import RaynasError
from raynas.registry import unknown

TEST_FRACTION = 0.2  # of the images of a data set without a published test set
IMAGE_FILES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

Arrays = tuple[NDArray[Any], NDArray[Any]]  # images (n, h, w, c) with values in [0, 255] or [0, 1], labels (n,)


class DataError(RaynasError):
    """A data set is missing, cannot be downloaded, or cannot be trained on."""


@dataclass(frozen=True)
class Split:
    """Some of the images of a data set."""

    images: Tensor  # (n, c, h, w) float32 in [0, 1]; (images - mean) / std normalises them
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """The same images, on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Data:
    """A data set. `valid` is empty if no image was held out."""

    name: str
    train: Split
    valid: Split
    test: Split
    classes: int
    image_size: int  # h = w
    channels: int
    mean: tuple[float, ...]  # (c,) of the training images
    std: tuple[float, ...]  # (c,)
    mirrored: bool  # whether the mirror image shows the same class: not so for digits


def load(name: str, seed: int, validation: float = 0.2, data_dir: str | Path | None = None) -> Data:
    """The data set `name`: one of DATASETS, or `folder:PATH`.

    Published data sets come with torchvision, downloaded on first use; `digits` (8x8, grey) with scikit-learn. PATH holds one folder of
    images for each class, or two folders `train` and `test` of that kind. Where no test set is published, the same fifth of the
    images, whatever the seed, is the test set.

    Args:
        seed: of the choice of the validation images.
        validation: fraction of the training images that is held out, in [0, 1).
        data_dir: where downloads are kept; None: ~/.cache/raynas.

    Raises:
        UnknownNameError: no such data set.
        DataError: it cannot be had, or cannot be trained on.
    """
    if not 0 <= validation < 1:
        raise DataError(f"the validation fraction must lie in [0, 1), not {validation}")
    folder = Path(data_dir).expanduser() if data_dir is not None else Path.home() / ".cache" / "raynas"
    kind, colon, path = name.partition(":")
    if colon and kind == "folder":
        train, test = _from_folder(Path(path).expanduser())
    elif name in DATASETS:
        train, test = DATASETS[name](folder)
    else:
        raise unknown("data set", name, [*DATASETS, "folder:PATH"])
    if test is None:
        train, test = _divide(train, TEST_FRACTION, np.random.default_rng(0))
    train, valid = _divide(train, validation, np.random.default_rng(seed))
    return _make(name, train, valid, test)


def _make(name: str, train: Arrays, valid: Arrays, test: Arrays) -> Data:
    if len(train[1]) < 2 or not len(test[1]):
        raise DataError(f"{name} has {len(train[1])} images to train on and {len(test[1])} to test; it needs at least 2 and 1")
    parts = _split(*train), _split(*valid), _split(*test)
    images = parts[0].images
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3)).clamp(min=1e-3)  # a channel may be constant
    classes = 1 + max(int(labels.max()) for _, labels in (train, valid, test) if len(labels))
    _, channels, height, width = images.shape
    if height != width or parts[2].images.shape[1:] != images.shape[1:]:
        raise DataError(f"{name} must hold square images of one size; it has {height}x{width} and {tuple(parts[2].images.shape[2:])}")
    mirrored = name not in ("digits", "svhn")
    return Data(name, *parts, classes, height, channels, tuple(mean.tolist()), tuple(std.tolist()), mirrored)


def _split(images: NDArray[Any], labels: NDArray[Any]) -> Split:
    scale = 1 / 255 if images.dtype == np.uint8 else 1.0
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()
    return Split(tensor.mul_(scale), torch.from_numpy(labels.astype(np.int64)))


def _divide(arrays: Arrays, fraction: float, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """Two parts, the second of which has a random `fraction` of the images."""
    images, labels = arrays
    order = rng.permutation(len(labels))
    first, second = np.split(order, [len(order) - round(fraction * len(order))])
    return (images[first], labels[first]), (images[second], labels[second])


def _digits(folder: Path) -> tuple[Arrays, None]:
    """1,797 images; they have no published test set."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return ((loaded.images / 16)[..., None], loaded.target), None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process of this machine at a time into `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise DataError(f"the data set cannot be kept in {folder}: {error.strerror or error}; choose another --data-dir") from error


def _published(kind: str) -> Callable[[Path], tuple[Arrays, Arrays]]:
    """The loader of the data set that torchvision calls `kind`."""

    def get(folder: Path) -> tuple[Arrays, Arrays]:
        import torchvision

        source = getattr(torchvision.datasets, kind)
        root = folder / kind.lower()
        with _locked(root):
            parts = []
            for training in (True, False):
                choice = {"split": "train" if training else "test"} if kind == "SVHN" else {"train": training}
                try:
                    parts.append(_arrays(source(root, download=True, **choice)))
                except (OSError, RuntimeError) as error:  # no network, or a file that is damaged
                    reason = " ".join(str(error).split())
                    raise DataError(f"{kind} cannot be downloaded to {root} ({reason}); put it there, or name its --data-dir") from error
        return parts[0], parts[1]

    return get


def _arrays(dataset: Any) -> Arrays:
    images = np.asarray(dataset.data)
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets)
    if images.ndim == 3:
        images = images[..., None]  # grey
    return (images.transpose(0, 2, 3, 1) if images.shape[1] == 3 else images), labels


def _from_folder(path: Path) -> tuple[Arrays, Arrays | None]:
    names = _class_names(path)
    if names != ["test", "train"]:
        return _images_of(path, names), None
    classes = _class_names(path / "train")
    if _class_names(path / "test") != classes:
        raise DataError(f"{path / 'train'} and {path / 'test'} must have the same classes: {', '.join(classes)}")
    return _images_of(path / "train", classes), _images_of(path / "test", classes)


def _class_names(path: Path) -> list[str]:
    if not path.is_dir():
        raise DataError(f"the folder {path} does not exist")
    names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{path} must hold one folder of images for each of at least 2 classes; it has {len(names)} folders")
    return names


def _images_of(path: Path, names: list[str]) -> Arrays:
    """All images in the folders `names` of `path`, in colour; the label is the position of the folder."""
    from PIL import Image, UnidentifiedImageError

    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = sorted(file for file in (path / name).iterdir() if file.suffix.lower() in IMAGE_FILES)
        if not files:
            raise DataError(f"{path / name} holds no images ({', '.join(sorted(IMAGE_FILES))}); remove it or fill it")
        for file in files:
            try:
                with Image.open(file) as opened:
                    image = np.asarray(opened.convert("RGB"))
            except (OSError, UnidentifiedImageError) as error:
                raise DataError(f"{file} cannot be read as an image; remove it") from error
            if (images and image.shape != images[0].shape) or image.shape[0] != image.shape[1]:
                size, first = (f"{w}x{h}" for h, w, _ in (image.shape, (images or [image])[0].shape))
                raise DataError(f"all images must be square and of one size: {file} has {size}, the first one {first}; resize them")
            images.append(image)
            labels.append(label)
    return np.stack(images), np.array(labels)


DATASETS: dict[str, Callable[[Path], tuple[Arrays, Arrays | None]]] = {
    "digits": _digits,
    "cifar10": _published("CIFAR10"),
    "cifar100": _published("CIFAR100"),
    "svhn": _published("SVHN"),
    "fashion-mnist": _published("FashionMNIST"),
}
