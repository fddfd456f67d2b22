"""Which images a folder or a table names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.learning.data import DataError, View, load
from trainables.learning.listing import list_images


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def told(root: Path, path: Path | None = None) -> dict[str, dict[str, str]]:
    """By part, the class of each image by its name below `root`."""
    listing = list_images(path or root)
    return {
        part: {str(Path(file).relative_to(root)): listing.class_names[label] for file, label in zip(*images, strict=True)}
        for part, images in listing.parts.items()
    }


def test_images_lie_at_any_depth_and_hidden_files_are_none(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "cat/a.JPG",
        "cat/deep/er/b.png",
        "cat/._a.jpg",
        "cat/.cache/c.png",
        "cat/notes.txt",
        "dog/a.webp",
        ".git/x.png",
        "README.md",
    )
    assert told(tmp_path) == {"train": {"cat/a.JPG": "cat", "cat/deep/er/b.png": "cat", "dog/a.webp": "dog"}}


@pytest.mark.parametrize("valid", ["val", "valid", "validation"])
def test_given_parts(tmp_path: Path, valid: str) -> None:
    touch(tmp_path, "train/cat/a.png", "train/dog/b.png", f"{valid}/cat/c.png", "test/dog/d.png")
    parts = told(tmp_path)
    assert parts["valid"] == {f"{valid}/cat/c.png": "cat"}
    assert parts["test"] == {"test/dog/d.png": "dog"}  # of the class that it has in train, though it is the first one here


def test_classes_may_be_called_as_parts_are(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "plane/b.png")
    assert told(tmp_path) == {"train": {"train/a.png": "train", "plane/b.png": "plane"}}


TWO = ["train/cat/a.png", "train/dog/a.png"]
WRONG_FOLDERS = {
    "one class": (["cat/a.png"], "at least 2 classes; it has 1 folders"),
    "one class to train": (["train/cat/a.png", "test/cat/a.png"], "train must hold .* at least 2 classes; it has 1"),
    "an empty class": (["cat/a.png", "dog/notes.txt"], "dog holds no images"),
    "another class": (
        ["train/cat/a.png", "train/dog/a.png", "test/owl/a.png"],
        "test must have the classes of .*train, cat, dog; it has owl",
    ),
    "a test set without classes": (
        ["train/cat/a.png", "train/dog/a.png", "test/a.png"],
        "test must have the classes of .*; it has no folders",
    ),
    "two parts": (
        [f"{part}/{name}/a.png" for part in ("train", "val", "valid") for name in ("cat", "dog")],
        "several folders of validation",
    ),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_a_wrong_folder_is_one_line(tmp_path: Path, case: str) -> None:
    files, message = WRONG_FOLDERS[case]
    with pytest.raises(DataError, match=message) as caught:
        list_images(touch(tmp_path, *files))
    assert "\n" not in str(caught.value)


def table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    return tmp_path / "labels.csv"


def test_a_table_of_labels(tmp_path: Path) -> None:
    path = table(tmp_path, 'Image,Class,split\na.jpg,cat,train\n"b, c.jpg",dog,train\nsub/d.jpg,dog,val\ne.jpg,cat,test\n')
    assert told(tmp_path, path) == {
        "train": {"a.jpg": "cat", "b, c.jpg": "dog"},
        "valid": {"sub/d.jpg": "dog"},
        "test": {"e.jpg": "cat"},
    }


def test_classes_that_are_numbers_keep_their_order(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label\n" + "".join(f"{i}.png,{i}\n" for i in range(12)))
    assert list_images(path).class_names == tuple(map(str, range(12)))


WRONG_TABLES = {
    "empty": ("", "cannot be read as a table"),
    "no label": ("file,size\na.png,3\n", r"needs a column label \(or class, category, target\); it has file, size"),
    "one class": ("file,label\na.png,cat\nb.png,cat\n", "at least 2 classes; it has 1"),
    "a row without a label": ("file,label\na.png,cat\nb.png,\n", "row 3 of .* has no label"),
    "a wrong split": ("file,label,split\na.png,cat,train\nb.png,dog,dev\n", "row 3 of .* is of split 'dev', not one of train, val"),
    "two classes of one image": ("file,label\na.png,cat\na.png,dog\n", "says twice of which class a.png is"),
    "a class without training": (
        "file,label,split\na.png,cat,train\nb.png,dog,train\nc.png,owl,test\n",
        "'owl', of which there are no",
    ),
    "ragged": ("file,label\na.png,cat,3\n", "cannot be read as a table"),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_wrong_table_is_one_line(tmp_path: Path, case: str) -> None:
    text, message = WRONG_TABLES[case]
    with pytest.raises(DataError, match=message) as caught:
        list_images(table(tmp_path, text))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"nowhere.csv does not exist"):
        list_images(tmp_path / "nowhere.csv")


def test_a_table_as_a_data_set(tmp_path: Path) -> None:
    for i in range(20):
        Image.new("RGB", (10 + i, 12), (12 * i, 0, 0)).save(tmp_path / f"{i}.png")
    path = table(tmp_path, "file,label\n" + "".join(f"{i}.png,{'dark' if i < 10 else 'light'}\n" for i in range(20)))
    data = load(f"folder:{path}", 0, view=View(8, 8))
    assert data.class_names == ("dark", "light")
    for split in (data.train, data.valid, data.test):
        assert np.array_equal((split.images[:, 0, 0, 0] >= 120).numpy(), split.labels.numpy() == 1)
