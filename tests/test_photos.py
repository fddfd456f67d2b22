"""Photographs of any size, shape and mode as squares; those that are damaged are left out, up to a limit."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import trainables.learning.data
from raynas.spaces import make_space
from tests.photographs import CLASSES, write_photographs
from trainables.learning.data import Data, DataError, View, load
from trainables.learning.photos import DamagedImage, pixels
from trainables.learning.recipes import make_recipe
from trainables.learning.splits import StreamedSplit
from trainables.learning.trainer import Trainer

VIEW = View(16, 18)
RAMP = np.linspace(0, 255, 40 * 60 * 3).astype(np.uint8).reshape(40, 60, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "photos", 20)
    return tmp_path / "photos"


def saved(path: Path, image: Any, mode: str | None = None, **options: Any) -> Path:
    made = Image.fromarray(image)
    (made if mode is None else made.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (30, 400), (17, 23), (224, 224)])
def test_the_middle_is_what_torchvision_takes(tmp_path: Path, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    smooth = Image.fromarray(image).resize((8, 8), Image.Resampling.BOX).resize(shape[::-1], Image.Resampling.BICUBIC)
    path = saved(tmp_path / "a.png", np.asarray(smooth))
    reference = v2.Compose([v2.Resize(64, antialias=True), v2.CenterCrop(64)])(smooth)
    assert np.abs(pixels(path, View(56, 64)).astype(int) - np.asarray(reference).astype(int)).max() <= 6


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "YCbCr", "I;16", "I"])
def test_every_mode_becomes_colours(tmp_path: Path, mode: str) -> None:
    grey = np.repeat(RAMP[:, :, :1], 3, axis=2)
    if mode.startswith("I"):
        wide = grey[:, :, 0].astype(np.uint16) * 257
        path = saved(tmp_path / "a.tif", wide if mode == "I;16" else wide.astype(np.int32))
    else:
        path = saved(tmp_path / ("a.png" if mode in ("RGB", "L", "1", "P", "RGBA", "LA") else "a.tif"), grey, mode)
    found = pixels(path)
    assert (found.shape, found.dtype) == ((40, 60, 3), np.uint8)
    if mode not in ("1", "P"):  # which have few colours
        assert np.abs(found.astype(int) - grey).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {1: RAMP, 2: RAMP[:, ::-1], 3: RAMP[::-1, ::-1], 4: RAMP[::-1], 5: RAMP.transpose(1, 0, 2)}
    turned |= {6: np.rot90(RAMP, -1), 7: RAMP[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(RAMP, 1)}
    assert np.array_equal(pixels(saved(tmp_path / "a.png", RAMP, exif=exif)), turned[orientation])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # which Pillow says once
def test_what_is_damaged_about_an_image_does_not_spoil_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", RAMP, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert pixels(path).shape == RAMP.shape


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_how_photographs_become_square(tmp_path: Path, fit: Any) -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, :20], image[:, 20:40], image[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    found = pixels(saved(tmp_path / "a.png", image), View(30, 30, fit))
    seen = {tuple(found[y, x].tolist()) for y, x in [(15, 2), (15, 15), (15, 27), (2, 15)]}
    red, green, blue, black = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
    assert seen == {"crop": {green}, "stretch": {red, green, blue}, "pad": {red, green, blue, black}}[fit]


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for path in (tmp_path / "a.png", tmp_path / "missing.png", tmp_path):
        with pytest.raises(DamagedImage, match=r"cannot be read as an image; remove it"):
            pixels(path, VIEW)


def test_a_folder_of_photographs(folder: Path) -> None:
    data = load(f"folder:{folder}", 0, view=VIEW)
    assert (data.classes, data.image_size, data.channels, data.class_names) == (3, 16, 3, CLASSES)
    assert data.train.images.shape == (38, 3, 18, 18)
    with pytest.raises(DataError, match=r"square and of one size.*--set recipe.image_size=64"):
        load(f"folder:{folder}", 0)


def damage(folder: Path, count: int) -> list[Path]:
    chosen = sorted(folder.rglob("*.jpg"))[:count]
    for path in chosen:
        path.write_bytes(path.read_bytes()[:200])
    return chosen


def test_a_few_damaged_ones_are_left_out_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = damage(folder, 3)
    with caplog.at_level(logging.WARNING):
        data = load(f"folder:{folder}", 0, view=VIEW)
    assert len(data.train) + len(data.valid) + len(data.test) == 57
    (line,) = caplog.messages
    assert line == f"3 of 60 images cannot be read and are left out: {', '.join(map(str, chosen))}"


def test_many_damaged_ones_are_an_error(folder: Path) -> None:
    damage(folder, 8)
    with pytest.raises(DataError, match=r"and 3 more cannot be read as images \(8 of 60; 5 % may be damaged\)") as caught:
        load(f"folder:{folder}", 0, view=VIEW)
    assert "\n" not in str(caught.value)


def test_squares_of_large_photographs_are_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainables.learning.photos, "CACHED", 0)
    monkeypatch.setattr(trainables.learning.photos, "KEPT", 2)
    plain = load(f"folder:{folder}", 0, data_dir=tmp_path, view=VIEW)
    damaged = damage(folder, 1)[0]
    expected = load(f"folder:{folder}", 0, data_dir=tmp_path, view=VIEW)
    assert len(expected.train) + len(expected.valid) + len(expected.test) == 59  # what has changed is read anew
    read: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(trainables.learning.photos, "pixels", lambda path, view: read.append(path))
        again = load(f"folder:{folder}", 0, data_dir=tmp_path, view=VIEW)
    assert (read, again.mean) == ([], expected.mean)
    assert torch.equal(again.train.images, expected.train.images)
    assert not torch.equal(again.train.images, plain.train.images)
    for size in (17, 19):
        load(f"folder:{folder}", 0, data_dir=tmp_path, view=View(16, size))
    assert len(list((tmp_path / "squares").glob("*.npy"))) == 4  # of the two that were used last
    for file in (tmp_path / "squares").glob("*-images.npy"):
        file.write_bytes(b"")
    assert load(f"folder:{folder}", 0, data_dir=tmp_path, view=View(16, 19)).train.images.shape[2] == 19
    assert damaged.exists()


def test_where_they_cannot_be_kept_they_are_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainables.learning.photos, "CACHED", 0)
    (tmp_path / "file").touch()
    assert len(load(f"folder:{folder}", 0, data_dir=tmp_path / "file", view=VIEW).train) == 38


def trainer(data: Data, **changes: Any) -> Trainer:
    space = make_space("nasbench201")
    recipe = make_recipe({"base": "quick", "image_size": 16, **changes}, space)
    return Trainer(space, space.sample(np.random.default_rng(1)), data, recipe, torch.device("cpu"), 0, epochs=2, batch_size=16)


def streamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    with monkeypatch.context() as patch:
        patch.setattr(trainables.learning.data, "IN_MEMORY", 0)
        data = load(f"folder:{folder}", 0, view=VIEW)
    assert isinstance(data.train, StreamedSplit)
    return data


AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "crop": {},
    "whole": {"crop_area": 1.0, "flip": False},
    "policies": {"policy": "trivial", "erasing": 0.5, "cutout": 4},
    "mixed": {"policy": "augmix", "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1},
    "rand": {"policy": "rand", "mixup": 0.2},
    "auto": {"policy": "auto", "cutmix": 1.0},
}


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_streamed_trainings_are_equal_bit_for_bit_also_when_they_go_on(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = AUGMENTATIONS[kind]
    whole, parts = load(f"folder:{folder}", 0, view=VIEW), streamed(folder, monkeypatch)
    held, first, second = trainer(whole, **options), trainer(parts, **options), trainer(parts, **options)
    state = torch.get_rng_state()
    expected = [held.train_epoch() | {"train_seconds": 0} for _ in range(2)]
    reports = [first.train_epoch()]
    second.load_state_dict(first.state_dict())
    reports.append(second.train_epoch())
    assert [report | {"train_seconds": 0} for report in reports] == expected
    assert torch.equal(held.confusion("test"), second.confusion("test"))
    assert torch.equal(torch.get_rng_state(), state)


def test_damaged_images_that_are_streamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = streamed(folder, monkeypatch)
    assert isinstance(data.train, StreamedSplit)
    path = Path(str(data.train.files.paths[5]))
    path.write_bytes(path.read_bytes()[:200])
    ((images, labels),) = data.train.batches([torch.tensor([4, 5, 6])])
    assert torch.equal(images[1], images[0])
    assert labels.tolist() == data.train.labels[[4, 4, 6]].tolist()
    assert data.damaged == {str(path)}
    training = trainer(data)
    training.train_epoch()
    assert training.evaluate("train") is not None
    for other in data.train.files.paths[10:16]:
        Path(str(other)).unlink()
    with pytest.raises(DataError, match="5 % may be damaged"):
        training.train_epoch()
