"""Which images a folder or a table of labels (CSV) names, and of which classes they are."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.csv
from numpy.typing import NDArray
from pyarrow import ArrowException

from trainables.learning.photos import SUFFIXES, DataError

PARTS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}  # as people call them
COLUMNS = {  # of a table, as people call them
    "file": ("file", "filename", "image", "path", "id"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "part", "subset"),
}

Part = tuple[NDArray[np.str_], NDArray[np.int64]]  # (n,) absolute paths of images, (n,) indices of their classes


@dataclass(frozen=True)
class Listing:
    """The images by part: "train", and where they are given apart "valid" and "test"."""

    parts: Mapping[str, Part]
    class_names: tuple[str, ...]


def list_images(path: Path) -> Listing:
    """The images that `path` names.

    It is a folder with one folder of images for each class, at any depth within it; or one of such folders that are called `train`,
    `val` and `test`, of which the first is needed. Or it is a CSV file whose columns `file` and `label` name each image, relative to
    the file's own folder, and its class, and whose column `split`, if there is one, says train, val or test.

    Raises:
        DataError: it is none of these, or a class has no images.
    """
    if path.suffix.lower() == ".csv":
        return _of_table(path)
    names = _folders(path)
    if "train" not in names or len(names) < 2 or not set(names) <= PARTS.keys():
        if len(names) < 2:
            raise DataError(f"{path} must hold one folder of images for each of at least 2 classes; it has {len(names)} folders")
        return Listing({"train": _images_of(path, names, names)}, tuple(names))
    classes = _folders(path / "train")
    if len(classes) < 2:
        raise DataError(f"{path / 'train'} must hold one folder of images for each of at least 2 classes; it has {len(classes)} folders")
    parts: dict[str, Part] = {}
    for name in names:
        here = _folders(path / name)
        if strange := set(here) - set(classes) or (set() if here else {"no folders"}):
            raise DataError(f"{path / name} must have the classes of {path / 'train'}, {', '.join(classes)}; it has {min(strange)}")
        if PARTS[name] in parts:
            raise DataError(f"{path} holds several folders of validation images; leave one")
        parts[PARTS[name]] = _images_of(path / name, here, classes)
    return Listing(parts, tuple(classes))


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        raise DataError(f"the folder {path} does not exist")
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _images_of(path: Path, names: Iterable[str], classes: list[str]) -> Part:
    """All images in the folders `names` of `path`."""
    paths: list[str] = []
    labels: list[int] = []
    for name in names:
        files = images_in((path / name).absolute())
        if not files:
            raise DataError(f"{path / name} holds no images ({', '.join(sorted(SUFFIXES))}); remove it or fill it")
        paths += files
        labels += [classes.index(name)] * len(files)
    return np.array(paths), np.array(labels, np.int64)


def images_in(folder: Path) -> list[str]:
    """The files in a folder, at any depth, that are called as images are, in order; hidden ones, as macOS leaves them, are none."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, file) for file in files if not file.startswith(".") and Path(file).suffix.lower() in SUFFIXES]
    return sorted(found)


def _of_table(path: Path) -> Listing:
    columns = _columns(path)
    files, labels = columns["file"], columns["label"]
    splits = columns.get("split") or ["train"] * len(files)
    for row, (file, label, split) in enumerate(zip(files, labels, splits, strict=True), 2):
        if not file or not label or split not in PARTS:
            problem = (
                "has no file" if not file else "has no label" if not label else f"is of split {split!r}, not one of {', '.join(PARTS)}"
            )
            raise DataError(f"row {row} of {path} {problem}")
    told = dict(zip(files, labels, strict=True))
    if other := next((file for file, label in zip(files, labels, strict=True) if told[file] != label), None):
        raise DataError(f"{path} says twice of which class {other} is; an image has one class")
    kinds = [PARTS[split] for split in splits]
    classes = sorted({label for label, kind in zip(labels, kinds, strict=True) if kind == "train"}, key=_as_number)
    if len(classes) < 2:
        raise DataError(f"{path} must name training images of at least 2 classes; it has {len(classes)}")
    index, folder = {name: i for i, name in enumerate(classes)}, str(path.absolute().parent)
    parts: dict[str, tuple[list[str], list[int]]] = {}
    for file, label, kind in zip(files, labels, kinds, strict=True):
        if label not in index:
            raise DataError(f"{file} in {path} is of class {label!r}, of which there are no training images")
        paths, numbers = parts.setdefault(kind, ([], []))
        paths.append(os.path.join(folder, file))
        numbers.append(index[label])
    return Listing({kind: (np.array(paths), np.array(numbers, np.int64)) for kind, (paths, numbers) in parts.items()}, tuple(classes))


def _as_number(name: str) -> tuple[float, str]:
    """By this classes 0 to 10 come in the order of numbers, and others after them in that of the alphabet."""
    return (float(name), name) if name.isdecimal() else (float("inf"), name)


def _columns(path: Path) -> dict[str, list[str]]:
    """The columns of a table that COLUMNS knows, as texts."""
    try:
        names = pyarrow.csv.open_csv(path).schema.names
        options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
        table = pyarrow.csv.read_csv(path, convert_options=options)
    except FileNotFoundError as error:
        raise DataError(f"the table {path} does not exist") from error
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} cannot be read as a table (CSV): {str(error).splitlines()[0]}") from error
    called = {name.strip().lower(): name for name in names}
    found: dict[str, list[str]] = {}
    for kind, known in COLUMNS.items():
        if name := next((called[word] for word in known if word in called), None):
            found[kind] = [(value or "").strip() for value in table[name].to_pylist()]
        elif kind != "split":
            raise DataError(f"{path} needs a column {kind} (or {', '.join(known[1:])}); it has {', '.join(names)}")
    return found
