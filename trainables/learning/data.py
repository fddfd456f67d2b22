"""Image classification data as tensors, split into training, validation and test images.

n: images, c: channels, h and w: height and width in pixels.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raynas.registry import keywords, resolve, unknown
from trainables.learning.blame import blamed
from trainables.learning.splits import DataError as DataError
from trainables.learning.splits import Files, StreamedSplit, pixels, statistics
from trainables.learning.splits import Split as Split

TEST_FRACTION = 0.2  # of the images of a data set without a published test set
IMAGE_FILES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
IN_MEMORY = 2**30  # bytes: a folder with more of uint8 pixels is streamed

Arrays = tuple[NDArray[Any] | Files, NDArray[Any]]  # images (n, h, w, c) with values in [0, 255] or [0, 1], labels (n,)


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


@dataclass(frozen=True)
class Source:
    """A data set as it comes, before images are held out."""

    train: Arrays
    classes: int
    mirrored: bool = True
    valid: Arrays | None = None  # None: some of the training images are held out
    test: Arrays | None = None


def load(name: str, seed: int, validation: float = 0.2, data_dir: str | Path | None = None) -> Data:
    """The data set `name`: one of DATASETS, `folder:PATH`, or `module:function` of your own (see `_from_function`).

    Published data sets come with torchvision, downloaded on first use; `digits` (8x8, grey) with scikit-learn. PATH holds one folder of
    images for each class, or two folders `train` and `test` of that kind; all images must be square and of one size. Where there is no
    test set, the same fifth of the images, whatever the seed, is the test set. Folders of more than IN_MEMORY are streamed.

    Args:
        seed: of the choice of the validation images.
        validation: fraction of the training images that is held out, in [0, 1).
        data_dir: where downloads are kept; None: ~/.cache/raynas.

    Raises:
        UnknownNameError: no such data set, or the function cannot be imported.
        DataError: it cannot be had, or cannot be trained on.
    """
    if not 0 <= validation < 1:
        raise DataError(f"the validation fraction must lie in [0, 1), not {validation}")
    folder = Path(data_dir).expanduser() if data_dir is not None else Path.home() / ".cache" / "raynas"
    source = _source(name, seed, folder)
    train, valid, test = source.train, source.valid, source.test
    if test is None:
        train, test = _divide(train, TEST_FRACTION, np.random.default_rng(0))
    if valid is None:
        train, valid = _divide(train, validation, np.random.default_rng(seed))
    return _make(name, (train, valid, test), source.classes, source.mirrored)


def _source(name: str, seed: int, folder: Path) -> Source:
    if ":" in name and not name.startswith("folder:"):
        return _from_function(name, seed, folder)
    if name.startswith("folder:"):
        train, test = _from_folder(Path(name.removeprefix("folder:")).expanduser())
    elif name in DATASETS:
        train, test = DATASETS[name](folder)
    else:
        raise unknown("data set", name, [*DATASETS, "folder:PATH", "module:function"])
    classes = 1 + max(int(labels.max()) for _, labels in (train, test or train))
    return Source(train, classes, mirrored=name not in ("digits", "svhn"), test=test)


def _make(name: str, arrays: tuple[Arrays, Arrays, Arrays], classes: int, mirrored: bool) -> Data:
    """The data set of `arrays`: training, validation and test images."""
    counts = [len(labels) for _, labels in arrays]
    if counts[0] < 2 or not counts[2]:
        raise DataError(f"{name} has {counts[0]} images to train on and {counts[2]} to test; it needs at least 2 and 1")
    train, valid, test = (_split(*part) for part in arrays)
    shapes = [tuple(part.images.shape[1:]) for part in (train, valid, test)]
    channels, height, width = shapes[0]
    if height != width or len(set(shapes)) > 1:
        shown = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise DataError(f"{name} must hold square images of one size; channels x height x width of training, validation, test: {shown}")
    mean, std = statistics(train)
    return Data(name, train, valid, test, classes, height, channels, mean, std, mirrored)


def _split(images: NDArray[Any] | Files, labels: NDArray[Any]) -> Split:
    if isinstance(images, Files):
        width, height = images.size
        return StreamedSplit(torch.empty(0, 3, height, width), torch.from_numpy(labels), images)
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Split(tensor if images.dtype == np.uint8 else tensor.float(), torch.from_numpy(labels.astype(np.int64)))


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
        raise DataError(f"the data set cannot be kept in {folder}: {error.strerror or error}; choose another data_dir") from error


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
                    raise DataError(f"{kind} cannot be downloaded to {root} ({reason}); put it there, or name its data_dir") from error
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
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = sorted(file for file in (path / name).absolute().iterdir() if file.suffix.lower() in IMAGE_FILES)
        if not files:
            raise DataError(f"{path / name} holds no images ({', '.join(sorted(IMAGE_FILES))}); remove it or fill it")
        paths += map(str, files)
        labels += [label] * len(files)
    first = pixels(paths[0])
    images = Files(np.array(paths), (first.shape[1], first.shape[0]))
    return images if len(paths) * first.nbytes > IN_MEMORY else images.read(), np.array(labels, np.int64)


def _from_function(name: str, seed: int, folder: Path) -> Source:
    """The data set that a user's own function returns.

    It is called with those of the keywords `seed` and `data_dir` that it takes, and returns a mapping with the keys

        train             a pair (images, labels) of tensors or arrays, or a data set like torchvision's: items (image, label)
        valid, test       the same; where they are missing, images are held out as for every data set
        classes           how many there are; without it, as many as labels in `train`
        mirrored          whether the mirror image shows the same class; without it, it does

    Images are (n, c, h, w), whole numbers (uint8) in [0, 255] or fractions in [0, 1], square, not normalised; an item's image is
    (c, h, w) or a picture of PIL. Labels are the whole numbers from 0 to classes - 1, and each is in `train`.
    """
    function = resolve({}, name, "data set")
    if not callable(function):
        raise DataError(f"{name} must be a function that returns a data set, not {type(function).__name__}")
    available = {"seed": seed, "data_dir": folder}
    with blamed(name, DataError):
        made = function(**{key: value for key, value in available.items() if key in keywords(function)})
    allowed = ("train", "valid", "test", "classes", "mirrored")
    if not isinstance(made, Mapping) or made.get("train") is None or set(made) - set(allowed):
        shown = f"the keys {', '.join(map(str, made))}" if isinstance(made, Mapping) else type(made).__name__
        raise DataError(f"{name} must return a mapping with the key train, and if need be {', '.join(allowed[1:])}; it returned {shown}")
    parts = {key: _part(f"{key} of {name}", made[key]) for key in allowed[:3] if made.get(key) is not None}
    present = np.unique(parts["train"][1])
    classes = made.get("classes", len(present))
    if not isinstance(classes, int):
        raise DataError(f"classes of {name} must be a whole number, not {classes!r}")
    if classes < 2 or not np.array_equal(present, np.arange(classes)):
        some = ", ".join(map(str, present[:10].tolist())) + (", ..." if len(present) > 10 else "")
        raise DataError(f"the labels in train of {name} must be all of 0 to {classes - 1} (2 classes at least); they are {some or 'none'}")
    for key, (_, labels) in parts.items():
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise DataError(f"the label {wrong[0]} in {key} of {name} lies outside of 0 to {classes - 1}")
    return Source(parts["train"], classes, bool(made.get("mirrored", True)), parts.get("valid"), parts.get("test"))


def _part(what: str, given: Any) -> Arrays:
    """Images and labels as a user's function returned them, checked."""
    if not (isinstance(given, (tuple, list)) and len(given) == 2 and all(hasattr(part, "shape") for part in given)):
        given = _items(what, given)
    images, labels = map(_array, given)
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise DataError(f"{what} must be images (n, c, h, w) and labels (n,), not {images.shape} and {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"the labels in {what} must be whole numbers, not {labels.dtype}")
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise DataError(f"the images in {what} must be uint8 in [0, 255] or fractions in [0, 1], not {images.dtype}")
        low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise DataError(f"the images in {what} must lie in [0, 1], not in [{low:g}, {high:g}]; normalisation is done for you")
    return images.transpose(0, 2, 3, 1), labels


def _items(what: str, dataset: Any) -> tuple[Any, Any]:
    """All items (image, label) of a data set as two arrays."""
    try:
        pairs = [(_image(image), int(label)) for image, label in (dataset[i] for i in range(len(dataset)))]
    except (TypeError, ValueError, KeyError) as error:
        kind = type(dataset).__name__
        raise DataError(f"{what} must be a pair (images, labels) or a data set of items (image, label), not {kind}: {error}") from error
    if shapes := [f"{image.shape}" for image, _ in pairs if image.shape != pairs[0][0].shape]:
        raise DataError(f"all images in {what} must be of one size: there are {pairs[0][0].shape} and {shapes[0]}; resize them")
    return np.stack([image for image, _ in pairs]) if pairs else np.zeros((0, 1, 1, 1)), np.array([label for _, label in pairs], np.int64)


def _image(image: Any) -> NDArray[Any]:
    """One image as (c, h, w)."""
    if hasattr(image, "getbands"):  # of PIL: (h, w) or (h, w, c)
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return _array(image)


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


DATASETS: dict[str, Callable[[Path], tuple[Arrays, Arrays | None]]] = {
    "digits": _digits,
    "cifar10": _published("CIFAR10"),
    "cifar100": _published("CIFAR100"),
    "svhn": _published("SVHN"),
    "fashion-mnist": _published("FashionMNIST"),
}
