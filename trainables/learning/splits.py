"""The images that a data set is divided into: tensors in memory, or files that are read while a network is trained.

n: images, c: channels, h and w: height and width in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from raynas.errors import RaynasError

SAMPLE = (10_000, 2**28)  # images, and values in them, at most, from which the mean and deviation of streamed ones are computed
READERS = 16  # processes that read streamed images, at most: one for each thread that torch may use


class DataError(RaynasError):
    """A data set is missing, cannot be downloaded, or cannot be trained on."""


@dataclass(frozen=True)
class Files:
    """Images, in colour, that are read when they are needed."""

    paths: NDArray[np.str_]  # (n,); not a list, of which each process that reads would soon own a copy
    size: tuple[int, int]  # width and height, which must be equal, of each of them

    def __getitem__(self, chosen: NDArray[np.int64]) -> "Files":
        return Files(self.paths[chosen], self.size)

    def read(self) -> NDArray[np.uint8]:
        """(n, h, w, 3).

        Raises:
            DataError: one of them cannot be read, or has another size.
        """
        width, height = self.size
        images = np.empty((len(self.paths), height, width, 3), np.uint8)
        for image, path in zip(images, self.paths, strict=True):
            found = pixels(path)
            if found.shape != image.shape or width != height:
                sizes = f"{path} has {found.shape[1]}x{found.shape[0]}, the first one {width}x{height}"
                raise DataError(f"all images must be square and of one size: {sizes}; resize them")
            image[:] = found
        return images


@dataclass(frozen=True)
class Split:
    """Some of the images of a data set."""

    images: Tensor  # (n, c, h, w) uint8 in [0, 255], or float32 in [0, 1]
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """The same images, on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def batches(
        self, indices: Sequence[Tensor], share: tuple[int, int] = (0, 1), device: torch.device | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, float32 in [0, 1], and labels of each of the batches.

        Args:
            indices: of the images of each batch, (n,) int64.
            share: (i, k): of each batch only part i of `tensor_split(k)` is used; other images may be black.
            device: where they are wanted; None: where the split is.
        """
        return ((fractions(images), labels) for images, labels in self.raw(indices, share, device))

    def raw(
        self, indices: Sequence[Tensor], share: tuple[int, int] = (0, 1), device: torch.device | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `batches`, with images of the type in which they are held."""
        for chosen in indices:
            yield self.images[chosen].to(device or self.images.device), self.labels[chosen].to(device or self.labels.device)


@dataclass(frozen=True)
class StreamedSplit(Split):
    """Images that are read from their files whenever they are needed, by processes of their own.

    `images` is empty, (0, c, h, w), and tells shape and device. Every machine that trains needs the files at the same paths.
    """

    files: Files

    def to(self, device: torch.device) -> "StreamedSplit":
        return StreamedSplit(self.images.to(device), self.labels.to(device), self.files)

    def raw(
        self, indices: Sequence[Tensor], share: tuple[int, int] = (0, 1), device: torch.device | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As those of a Split of uint8, with the same values.

        Raises:
            DataError: an image cannot be read, or has another size than the first one; or a process was lost.
        """
        device = device or self.images.device
        loader: DataLoader[Tensor | DataError] = DataLoader(
            [chosen.cpu().numpy() for chosen in indices],  # type: ignore[arg-type]  # a list will do
            batch_size=None,
            collate_fn=partial(_read, self.files, share),
            num_workers=min(READERS, torch.get_num_threads(), len(indices)),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # leaves the global one alone
        )
        arriving = iter(loader)
        for chosen in indices:
            try:
                images = next(arriving)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise DataError(f"a process that reads images was lost ({reason}); is there enough memory, also in /dev/shm?") from error
            if isinstance(images, DataError):
                raise images
            yield images.to(device, non_blocking=True), self.labels[chosen].to(device)


def _read(files: Files, share: tuple[int, int], chosen: NDArray[np.int64]) -> Tensor | DataError:
    """The share of a batch: (n, 3, h, w) uint8. An error is returned, as one raised in another process loses its text."""
    part = np.array_split(np.arange(len(chosen)), share[1])[share[0]]
    width, height = files.size
    images = torch.zeros((len(chosen), 3, height, width), dtype=torch.uint8)
    try:
        images[part] = torch.from_numpy(files[chosen[part]].read()).permute(0, 3, 1, 2)
    except DataError as error:
        return error
    return images


def pixels(path: str) -> NDArray[np.uint8]:
    """The image in a file, in colour: (h, w, 3)."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except Exception as error:  # Pillow promises no type of error for a file that is damaged
        raise DataError(f"{path} cannot be read as an image; remove it") from error


def fractions(images: Tensor) -> Tensor:
    """Images of uint8 or float32 as float32 in [0, 1]."""
    return images.float().mul_(1 / 255) if images.dtype == torch.uint8 else images


def statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(c,) mean and (c,) deviation, at least 0.001, of all images, or of SAMPLE of those that are streamed, always the same ones."""
    if split.images.dtype == torch.float32 and not isinstance(split, StreamedSplit):
        mean, std = split.images.mean((0, 2, 3)), split.images.std((0, 2, 3)).clamp(min=1e-3)  # a channel may be constant
        return tuple(mean.tolist()), tuple(std.tolist())
    shape = split.images.shape[1:]
    chosen = torch.arange(len(split))
    if isinstance(split, StreamedSplit):
        count = min(len(split), SAMPLE[0], max(1, SAMPLE[1] // shape.numel()))
        chosen = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(split))[:count]))
    sums, squares = torch.zeros(2, shape[0], dtype=torch.int64)
    for images, _ in split.raw(torch.split(chosen, 64)):  # a few at a time, as int64 takes eight times their memory
        values = images.long()
        sums += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    n = len(chosen) * shape[1:].numel()
    means = tuple(total / (255 * n) for total in sums.tolist())
    variances = ((n * square - total**2) / (n * (n - 1)) for total, square in zip(sums.tolist(), squares.tolist(), strict=True))
    return means, tuple(max(1e-3, variance**0.5 / 255) for variance in variances)
