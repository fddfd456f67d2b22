"""The images that a data set is divided into: tensors in memory, or files that are read while a network is trained.

n: images, c: channels, h and w: height and width in pixels.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from trainables.learning.photos import DamagedImage, DataError, Files, check_damaged, damage

logger = logging.getLogger(__name__)

SAMPLE = (10_000, 2**26)  # images, and values in them, at most, from which the mean and deviation of streamed ones are computed
READERS = 16  # processes that read streamed images, at most: one for each thread that torch may use


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

    `images` is empty, (0, c, h, w), and tells shape and device. Every machine that trains needs the files at the same paths. In the
    place of an image that is damaged another one of the batch comes once more.
    """

    files: Files
    damaged: set[str] = field(default_factory=set, compare=False)  # those that were met so far

    def to(self, device: torch.device) -> "StreamedSplit":
        return StreamedSplit(self.images.to(device), self.labels.to(device), self.files, self.damaged)

    def raw(
        self, indices: Sequence[Tensor], share: tuple[int, int] = (0, 1), device: torch.device | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As those of a Split of uint8, with the same values.

        Raises:
            DataError: an image has another size than the first one, or more than a few are damaged; or a process was lost.
        """
        device = device or self.images.device
        loader: DataLoader[_Read | DataError] = DataLoader(
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
                read = next(arriving)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise DataError(f"a process that reads images was lost ({reason}); is there enough memory, also in /dev/shm?") from error
            if isinstance(read, DataError):
                raise read
            images, sources, damaged = read
            self._note(set(damaged) - self.damaged)
            yield images.to(device, non_blocking=True), self.labels[chosen[sources.to(chosen.device)]].to(device)

    def _note(self, damaged: set[str]) -> None:
        if damaged:
            self.damaged.update(damaged)
            check_damaged(self.damaged, len(self))
            logger.warning("%s", damage(damaged, len(self)))


_Read = tuple[Tensor, Tensor, list[str]]  # (n, 3, h, w) uint8; (n,) which of the n it is, itself unless damaged; those damaged


def _read(files: Files, share: tuple[int, int], chosen: NDArray[np.int64]) -> _Read | DataError:
    """The share of a batch. An error is returned, as one raised in another process loses its text."""
    images = torch.zeros((len(chosen), 3, files.side, files.side), dtype=torch.uint8)
    sources, good, damaged = torch.arange(len(chosen)), [], []
    part = np.array_split(np.arange(len(chosen)), share[1])[share[0]].tolist()
    for i in part:
        try:
            images[i] = torch.from_numpy(files.one(int(chosen[i])).copy()).permute(2, 0, 1)
            good.append(i)
        except DamagedImage:
            damaged.append(i)
        except DataError as error:
            return error
    if damaged and not good:
        return DataError(f"all images of a batch are damaged, such as {files.paths[chosen[damaged[0]]]}; mend or remove them")
    for number, i in enumerate(damaged):
        sources[i] = good[number % len(good)]
        images[i] = images[sources[i]]
    return images, sources, [str(files.paths[chosen[i]]) for i in damaged]


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
