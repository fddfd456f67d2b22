"""Image classification data as tensors, split into training, validation and test images.

n: images, c: channels, h and w: height and width in pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raynas.registry import keywords, resolve, unknown
from trainables.learning.blame import blamed
from trainables.learning.listing import Part, list_images
from trainables.learning.photos import DataError as DataError
from trainables.learning.photos import Files, locked
from trainables.learning.photos import View as View
from trainables.learning.splits import READERS, StreamedSplit, statistics
from trainables.learning.splits import Split as Split

TEST_FRACTION = 0.2  # of the images of a data set without a published test set
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
    image_size: int  # in pixels, height and width of what a network sees; without a view, that of the images
    channels: int
    mean: tuple[float, ...]  # (c,) of the training images
    std: tuple[float, ...]  # (c,)
    mirrored: bool  # whether the mirror image shows the same class: not so for digits
    class_names: tuple[str, ...]  # (classes,)
    view: View | None = None  # of photographs: h = w = view.resize

    @property
    def damaged(self) -> set[str]:
        """Images that could not be read while a network was trained."""
        return {path for part in (self.train, self.valid, self.test) if isinstance(part, StreamedSplit) for path in part.damaged}


@dataclass(frozen=True)
class Source:
    """A data set as it comes, before images are held out."""

    train: Arrays
    classes: int
    mirrored: bool = True
    valid: Arrays | None = None  # None: some of the training images are held out
    test: Arrays | None = None
    class_names: tuple[str, ...] | None = None  # None: the numbers


def load(name: str, seed: int, validation: float = 0.2, data_dir: str | Path | None = None, view: View | None = None) -> Data:
    """The data set `name`: one of DATASETS, `folder:PATH`, or `module:function` of your own (see `_from_function`).

    Published data sets come with torchvision, downloaded on first use; `digits` (8x8, grey) with scikit-learn. What PATH may be says
    `listing.list_images`. Where there is no test set, the same fifth of the images, whatever the seed, is the test set. Folders of more
    than IN_MEMORY are streamed. Images that cannot be read are left out and named, if they are not many.

    Args:
        seed: of the choice of the validation images.
        validation: fraction of the training images that is held out, in [0, 1).
        data_dir: where downloads are kept; None: ~/.cache/raynas.
        view: what a network sees of photographs in a folder; None: all of them, and they must be square and of one size.

    Raises:
        UnknownNameError: no such data set, or the function cannot be imported.
        DataError: it cannot be had, or cannot be trained on.
    """
    if not 0 <= validation < 1:
        raise DataError(f"the validation fraction must lie in [0, 1), not {validation}")
    folder = Path(data_dir).expanduser() if data_dir is not None else Path.home() / ".cache" / "raynas"
    source = _source(name, seed, folder, view)
    train, valid, test = source.train, source.valid, source.test
    if test is None:
        train, test = _divide(train, TEST_FRACTION, np.random.default_rng(0))
    if valid is None:
        train, valid = _divide(train, validation, np.random.default_rng(seed))
    return _make(name, (train, valid, test), source, view if name.startswith("folder:") else None)


def _source(name: str, seed: int, folder: Path, view: View | None) -> Source:
    if name.startswith("folder:"):
        listed = list_images(Path(name.removeprefix("folder:")).expanduser())
        parts = {part: _images(files, view, folder) for part, files in listed.parts.items()}
        return Source(parts["train"], len(listed.class_names), True, parts.get("valid"), parts.get("test"), listed.class_names)
    if ":" in name:
        return _from_function(name, seed, folder)
    if name not in DATASETS:
        raise unknown("data set", name, [*DATASETS, "folder:PATH", "module:function"])
    return DATASETS[name](folder)


def _images(part: Part, view: View | None, cache: Path) -> Arrays:
    """Images in files: in memory if there is room."""
    paths, labels = part
    files = Files.of(paths, view)
    if files.nbytes > IN_MEMORY:
        return files, labels
    images, read = files.read(min(READERS, torch.get_num_threads()), cache)
    return images, labels[read]


def _make(name: str, arrays: tuple[Arrays, Arrays, Arrays], source: Source, view: View | None) -> Data:
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
    size, names = height if view is None else view.image_size, source.class_names or tuple(map(str, range(source.classes)))
    return Data(name, train, valid, test, source.classes, size, channels, mean, std, source.mirrored, names, view)


def _split(images: NDArray[Any] | Files, labels: NDArray[Any]) -> Split:
    if isinstance(images, Files):
        return StreamedSplit(torch.empty(0, 3, images.side, images.side), torch.from_numpy(labels), images)
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Split(tensor if images.dtype == np.uint8 else tensor.float(), torch.from_numpy(labels.astype(np.int64)))


def _divide(arrays: Arrays, fraction: float, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """Two parts, the second of which has a random `fraction` of the images."""
    images, labels = arrays
    order = rng.permutation(len(labels))
    first, second = np.split(order, [len(order) - round(fraction * len(order))])
    return (images[first], labels[first]), (images[second], labels[second])


def _digits(folder: Path) -> Source:
    """1,797 images; they have no published test set."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return Source(((loaded.images / 16)[..., None], loaded.target), 10, mirrored=False)


def _published(kind: str, mirrored: bool = True) -> Callable[[Path], Source]:
    """The loader of the data set that torchvision calls `kind`."""

    def get(folder: Path) -> Source:
        import torchvision

        source = getattr(torchvision.datasets, kind)
        root = folder / kind.lower()
        parts = []
        try:
            with locked(root):
                for training in (True, False):
                    choice = {"split": "train" if training else "test"} if kind == "SVHN" else {"train": training}
                    dataset = source(root, download=True, **choice)
                    parts.append(_arrays(dataset))
        except (OSError, RuntimeError) as error:  # no network, no right to write, or a file that is damaged
            reason = " ".join(str(error).split())
            raise DataError(f"{kind} cannot be downloaded to {root} ({reason}); put it there, or name another data_dir") from error
        (_, labels), names = parts[0], getattr(dataset, "classes", None)
        return Source(parts[0], 1 + int(labels.max()), mirrored, test=parts[1], class_names=None if names is None else tuple(names))

    return get


def _arrays(dataset: Any) -> Arrays:
    images = np.asarray(dataset.data)
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets)
    if images.ndim == 3:
        images = images[..., None]  # grey
    return (images.transpose(0, 2, 3, 1) if images.shape[1] == 3 else images), labels


def _from_function(name: str, seed: int, folder: Path) -> Source:
    """The data set that a user's own function returns.

    It is called with those of the keywords `seed` and `data_dir` that it takes, and returns a mapping with the keys

        train             a pair (images, labels) of tensors or arrays, or a data set like torchvision's: items (image, label)
        valid, test       the same; where they are missing, images are held out as for every data set
        classes           how many there are, or their names; without it, as many as labels in `train`
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
    classes: Any = made.get("classes", len(present))
    names: tuple[str, ...] | None = None
    if isinstance(classes, (list, tuple)) and all(isinstance(text, str) for text in classes):
        classes, names = len(classes), tuple(classes)
    if not isinstance(classes, int):
        raise DataError(f"classes of {name} must be a whole number or a list of names, not {classes!r}")
    if classes < 2 or not np.array_equal(present, np.arange(classes)):
        some = ", ".join(map(str, present[:10].tolist())) + (", ..." if len(present) > 10 else "")
        raise DataError(f"the labels in train of {name} must be all of 0 to {classes - 1} (2 classes at least); they are {some or 'none'}")
    for key, (_, labels) in parts.items():
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise DataError(f"the label {wrong[0]} in {key} of {name} lies outside of 0 to {classes - 1}")
    return Source(parts["train"], classes, bool(made.get("mirrored", True)), parts.get("valid"), parts.get("test"), names)


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


DATASETS: dict[str, Callable[[Path], Source]] = {
    "digits": _digits,
    "cifar10": _published("CIFAR10"),
    "cifar100": _published("CIFAR100"),
    "svhn": _published("SVHN", mirrored=False),
    "fashion-mnist": _published("FashionMNIST"),
}
