"""Photographs in files: of any size, shape and mode, as squares of colours.

n: images, h and w: height and width in pixels.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raynas.errors import RaynasError

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
CACHED = 2**26  # bytes of files from which on their squares are kept
KEPT = 8  # of them, those used last
DAMAGED = 0.05  # share of the images that may be damaged; they are left out
_NAMED = 5  # damaged images whose names are told


class DataError(RaynasError):
    """A data set is missing, cannot be downloaded, or cannot be trained on."""


class DamagedImage(DataError):
    """A file holds no image, or only a part of one."""


@dataclass(frozen=True)
class View:
    """How a photograph of any size becomes the square that a network sees."""

    image_size: int  # side of that square
    resize: int  # side of a larger one, from which it is cut: at random in training, else its middle
    fit: Literal["crop", "pad", "stretch"] = "crop"  # how the larger one is made: the middle of the photograph, all with bars, or all


@dataclass(frozen=True)
class Files:
    """Images, in colour, that are read when they are needed."""

    paths: NDArray[np.str_]  # (n,); not a list, of which each process that reads would soon own a copy
    view: View | None  # None: the images have one size and are square
    side: int  # of the squares that are read

    @classmethod
    def of(cls, paths: NDArray[np.str_], view: View | None) -> "Files":
        """Those at `paths`; their size is told by the view, or by the first of them that can be read."""
        if view is not None:
            return cls(paths, view, view.resize)
        damaged: list[str] = []
        for path in paths:
            try:
                height, width, _ = pixels(str(path)).shape
            except DamagedImage:
                damaged.append(str(path))
                check_damaged(damaged, len(paths))
                continue
            if height != width:
                raise _sizes(f"{path} has {width}x{height}")
            return cls(paths, view, height)
        raise DataError("there are no images")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: NDArray[np.int64]) -> "Files":
        return Files(self.paths[chosen], self.view, self.side)

    @property
    def nbytes(self) -> int:
        """What they need in memory."""
        return len(self) * 3 * self.side**2

    def one(self, index: int) -> NDArray[np.uint8]:
        """(h, w, 3).

        Raises:
            DamagedImage: it cannot be read.
            DataError: it has another size than the first one, and there is no view.
        """
        path = str(self.paths[index])
        found = pixels(path, self.view)
        if found.shape[:2] != (self.side, self.side):
            raise _sizes(f"{path} has {found.shape[1]}x{found.shape[0]}, the first one {self.side}x{self.side}")
        return found

    def read(self, threads: int, cache: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(m, h, w, 3) all that can be read, and which they are: (m,). Those that are damaged are told to the log.

        Large photographs take their time to be decoded. So their squares are kept in the folder `cache`, from which all processes of
        a machine share them.

        Raises:
            DataError: an image has another size, or more than a few of them are damaged.
        """
        told = [] if self.view is None else [_stamp(str(path)) for path in self.paths]
        if self.view is None or sum(size for size, _ in told) < CACHED:
            images, good = self._decoded(threads)
        else:
            key = sha256(repr((self.view, self.paths.tolist(), told)).encode()).hexdigest()[:32]
            images, good = _kept(cache / "squares", key, partial(self._decoded, threads))
        if not good.all():
            damaged = [str(path) for path in self.paths[~good]]
            check_damaged(damaged, len(self))
            logger.warning("%s", damage(damaged, len(self)))
        return images, np.flatnonzero(good)

    def _decoded(self, threads: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(m, h, w, 3) all that can be read, and which they are: (n,)."""
        images = np.empty((len(self), self.side, self.side, 3), np.uint8)

        def read(index: int) -> bool:
            try:
                images[index] = self.one(index)
            except DamagedImage:
                return False
            return True

        with ThreadPoolExecutor(threads) as pool:  # Pillow decodes without the interpreter's lock
            good = np.fromiter(pool.map(read, range(len(self))), bool, len(self))
        return images if good.all() else images[good], good


def _stamp(path: str) -> tuple[int, int]:
    """Size and time of change of a file, by which it is seen to be another one; zeros where there is none."""
    try:
        stat = os.stat(path)
    except OSError:  # it counts as damaged when it is read
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _kept(folder: Path, key: str, decoded: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    """What is kept in a folder under a key, mapped into memory; made and kept where it is not there, as long as the disk takes it."""
    images, good = folder / f"{key}-images.npy", folder / f"{key}-good.npy"
    try:
        with locked(folder):  # other processes wait for what one of them makes
            if not good.exists():
                for array, file in zip(decoded(), (images, good), strict=True):  # `good` comes last
                    part = file.with_suffix(".part.npy")
                    np.save(part, array)
                    os.replace(part, file)
            good.touch()
            for old in sorted(folder.glob("*-good.npy"), key=os.path.getmtime)[:-KEPT]:
                old.unlink()
                old.with_name(old.name.replace("-good", "-images")).unlink(missing_ok=True)
            return np.load(images, mmap_mode="r"), np.load(good)
    except (OSError, EOFError, ValueError) as error:  # no room, no right to write, or a damaged file
        logger.warning("squares of photographs cannot be kept in %s (%s); each process decodes them for itself", folder, error)
        return decoded()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one process of this machine at a time into a folder, which is made; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sizes(found: str) -> DataError:
    mend = "name one by --set recipe.image_size=64 (for a one-shot search searcher_options.image_size), or resize them"
    return DataError(f"all images must be square and of one size where no size is named: {found}; {mend}")


def check_damaged(damaged: Collection[str], total: int) -> None:
    """Raises DataError where too many of `total` images are damaged."""
    if len(damaged) > DAMAGED * total:
        share = f"{len(damaged)} of {total}; {100 * DAMAGED:g} % may be damaged"
        raise DataError(
            f"{_listed(damaged)} cannot be read as {'an image' if len(damaged) == 1 else 'images'} ({share}); mend or remove them"
        )


def damage(damaged: Collection[str], total: int) -> str:
    """One line about images that are left out."""
    return f"{len(damaged)} of {total} images cannot be read and are left out: {_listed(damaged)}"


def _listed(paths: Collection[str]) -> str:
    more = len(paths) - _NAMED
    return ", ".join(sorted(paths)[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def pixels(path: str | os.PathLike[str], view: View | None = None) -> NDArray[np.uint8]:
    """The image in a file, in colour, upright as its EXIF data say: (h, w, 3), or the square of a view.

    Raises:
        DamagedImage: it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if view is not None:
                opened.draft(None, (2 * view.resize, 2 * view.resize))  # a JPEG is decoded to no more than is needed
            opened.load()
            image = _upright(opened)
    except MemoryError:
        raise
    except Exception as error:  # Pillow promises no type of error for a file that is damaged
        raise DamagedImage(f"{path} cannot be read as an image; remove it") from error
    if view is None:
        return np.asarray(_colour(image))
    (width, height), square, method = image.size, (view.resize, view.resize), Image.Resampling.BILINEAR
    if view.fit == "pad":
        return np.asarray(ImageOps.pad(_colour(image), square, method))
    side = min(width, height)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return np.asarray(_colour(image).resize(square, method, None if view.fit == "stretch" else box, reducing_gap=3.0))


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # the data about the image are damaged, not the image
        logger.debug("no orientation: %s", error)
        return image.copy()


def _colour(image: Any) -> Any:
    """An image of any mode in RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")
