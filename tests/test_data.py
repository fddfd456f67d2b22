"""Data sets, and the random changes of training images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raynas.errors import UnknownNameError
from trainables.learning.augmentation import cutout, random_crop, random_flip
from trainables.learning.data import DataError, load


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_images(folder: Path, count: int, size: tuple[int, int] = (8, 8), value: int = 100) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", size, (value, value, i)).save(folder / f"{i}.png")


def keys(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_digits_are_divided_by_the_seed_but_for_the_test_images() -> None:
    data, same, other = load("digits", 1), load("digits", 1), load("digits", 2)
    assert (data.classes, data.image_size, data.channels, data.mirrored) == (10, 8, 1, False)
    assert (len(data.train), len(data.valid), len(data.test)) == (1150, 288, 359)
    assert data.train.images.shape == (1150, 1, 8, 8)
    assert data.train.images.dtype == torch.float32
    assert data.train.labels.dtype == torch.int64
    assert (float(data.train.images.min()), float(data.train.images.max())) == (0.0, 1.0)
    assert torch.equal(data.valid.images, same.valid.images)
    assert not torch.equal(data.valid.labels, other.valid.labels)
    assert torch.equal(data.test.images, other.test.images)
    assert not keys(data.test.images) & (keys(data.train.images) | keys(data.valid.images))
    assert not keys(data.train.images) & keys(data.valid.images)


def test_mean_and_deviation_are_those_of_the_training_images() -> None:
    data = load("digits", 0)
    assert data.mean[0] == pytest.approx(float(data.train.images.mean()), rel=1e-5)
    assert data.std[0] == pytest.approx(float(data.train.images.std()), rel=1e-5)


def test_nothing_is_held_out_if_so_asked() -> None:
    data = load("digits", 0, validation=0.0)
    assert (len(data.train), len(data.valid)) == (1438, 0)


def test_whole_numbers_become_fractions_in_batches_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    data = load(f"folder:{tmp_path}", 0)
    for split in (data.train, data.valid, data.test):
        assert split.images.dtype == torch.uint8
        whole = split.images.float().mul_(1 / 255)  # bit for bit what was held in memory before
        ((images, labels),) = split.batches([torch.arange(len(split))])
        assert torch.equal(images, whole)
        assert images.dtype == torch.float32
        assert torch.equal(labels, split.labels)
    whole = data.train.images.double() / 255
    assert data.mean == pytest.approx(whole.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert data.std == pytest.approx(whole.std((0, 2, 3)).tolist(), rel=1e-12)


def test_the_deviation_of_a_constant_channel_is_no_zero(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 6, value=0)
    assert load(f"folder:{tmp_path}", 0).std[:2] == (1e-3, 1e-3)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for i, name in enumerate(["cat", "dog", "owl"]):
        write_images(tmp_path / name, 10, value=10 * i)
    data = load(f"folder:{tmp_path}", 0)
    assert (data.classes, data.image_size, data.channels, data.mirrored) == (3, 8, 3, True)
    assert (len(data.train), len(data.valid), len(data.test)) == (19, 5, 6)
    assert torch.equal(data.train.images[:, 0, 0, 0] // 10, data.train.labels)


def test_a_folder_with_its_own_test_images(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            write_images(tmp_path / part / name, count)
    data = load(f"folder:{tmp_path}", 0, validation=0.25)
    assert (len(data.train), len(data.valid), len(data.test)) == (9, 3, 6)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "2 classes; it has 0 folders"),
        ({"cat": (3, (8, 8))}, "2 classes; it has 1 folders"),
        ({"cat": (3, (8, 8)), "dog": (0, (8, 8))}, "dog holds no images"),
        ({"cat": (3, (8, 8)), "dog": (3, (9, 9))}, "dog/0.png has 9x9, the first one 8x8"),
        ({"cat": (3, (8, 6)), "dog": (3, (8, 6))}, "square.*cat/0.png has 8x6"),
    ],
)
def test_a_wrong_folder_is_one_clear_line(tmp_path: Path, folders: dict[str, tuple[int, tuple[int, int]]], message: str) -> None:
    for name, (count, size) in folders.items():
        write_images(tmp_path / name, count, size)
    with pytest.raises(DataError, match=message) as caught:
        load(f"folder:{tmp_path}", 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["no image", "cut", "changed"])
def test_a_damaged_image_is_named(tmp_path: Path, damage: str) -> None:
    write_images(tmp_path / "cat", 2)
    write_images(tmp_path / "dog", 2)
    path = tmp_path / "dog" / "1.png"
    whole = path.read_bytes()
    path.write_bytes({"no image": b"no image", "cut": whole[: len(whole) // 2], "changed": whole.replace(b"IDAT", b"JDAT")}[damage])
    with pytest.raises(DataError, match=r"dog/1.png cannot be read"):
        load(f"folder:{tmp_path}", 0)


def test_other_mistakes() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        load("cifar-10", 0)
    with pytest.raises(DataError, match="does not exist"):
        load("folder:/no/such/folder", 0)
    with pytest.raises(DataError, match="validation fraction"):
        load("digits", 0, validation=1.0)


def test_without_a_network_the_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def unreachable(*args: object, **options: object) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", unreachable)
    with pytest.raises(DataError, match=r"CIFAR10 cannot be downloaded to .*name resolution.*data_dir"):
        load("cifar10", 0, data_dir=tmp_path)


def test_published_data_sets_come_in_one_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With invented images in the three layouts that torchvision has."""
    import torchvision

    rng = np.random.default_rng(0)

    class Invented:
        def __init__(self, root: Path, download: bool, train: bool = True, split: str = "train") -> None:
            shape = {"CIFAR10": (20, 32, 32, 3), "SVHN": (20, 3, 32, 32), "FashionMNIST": (20, 28, 28)}[kind]
            self.data = rng.integers(256, size=shape, dtype=np.uint8)
            labels = np.arange(20) % 10
            if kind == "SVHN":
                self.labels = labels
            else:
                self.targets = labels.tolist()

    for name, kind, shape in (
        ("cifar10", "CIFAR10", (3, 32, 32)),
        ("svhn", "SVHN", (3, 32, 32)),
        ("fashion-mnist", "FashionMNIST", (1, 28, 28)),
    ):
        monkeypatch.setattr(torchvision.datasets, kind, Invented)
        data = load(name, 0, validation=0.5, data_dir=tmp_path)
        assert data.train.images.shape == (10, *shape)
        assert data.test.images.shape == (20, *shape)
        assert data.classes == 10
        assert data.train.images.dtype == torch.uint8  # a quarter of what float32 would take
        assert data.test.images.max() == 255


def test_a_random_crop_is_a_part_of_the_image_with_a_margin() -> None:
    images = torch.rand(50, 2, 5, 5)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    cropped = random_crop(images, 2, generator())
    assert cropped.shape == images.shape
    offsets = set()
    for image, source in zip(cropped, padded, strict=True):
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, source[:, y : y + 5, x : x + 5])]
        assert found
        offsets.add(found[0])
    assert len(offsets) > 15  # of 25


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.rand(200, 1, 3, 4)
    flipped = random_flip(images, generator())
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, flipped, images, strict=True))
    assert 70 < sum(mirrored) < 130


def test_cutout_blanks_a_square_clipped_at_the_border() -> None:
    blanked = cutout(torch.ones(300, 2, 8, 8), 4, generator())
    assert torch.equal(blanked[:, 0], blanked[:, 1])
    areas = (blanked[:, 0] == 0).sum((1, 2))
    assert int(areas.max()) == 16
    assert int(areas.min()) == 4  # the centre in a corner
    rows = (blanked[:, 0] == 0).any(2).sum(1)
    columns = (blanked[:, 0] == 0).any(1).sum(1)
    assert torch.equal(areas, rows * columns)


def test_the_same_generator_gives_the_same_changes() -> None:
    images = torch.rand(10, 1, 8, 8)
    for change in (lambda g: random_crop(images, 2, g), lambda g: random_flip(images, g), lambda g: cutout(images, 3, g)):
        assert torch.equal(change(generator(3)), change(generator(3)))
        assert not torch.equal(change(generator(3)), change(generator(4)))
