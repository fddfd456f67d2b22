"""Random changes of training images, a batch at a time, on the device where the images are.

n: images, c: channels, h and w: height and width in pixels. The generator must be on the device of the images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """A random part of each image with a black margin of `padding` pixels: (n, c, h, w) -> (n, c, h, w)."""
    n, _, h, w = images.shape
    windows = F.pad(images, (padding,) * 4).unfold(2, h, 1).unfold(3, w, 1)  # a view: (n, c, 2 padding + 1, 2 padding + 1, h, w)
    top, left = torch.randint(2 * padding + 1, (2, n), generator=generator, device=images.device)
    return windows[torch.arange(n, device=images.device), :, top, left]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image or, with probability 1/2, its mirror image: (n, c, h, w) -> (n, c, h, w)."""
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(chosen, images.flip(3), images)


def cutout(images: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Zeros in a random square of `length` pixels, clipped at the border: (n, c, h, w) -> (n, c, h, w).

    DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552; the centre is uniform over all pixels. For normalised images.
    """
    n, _, h, w = images.shape
    y = torch.randint(h, (n, 1), generator=generator, device=images.device)
    x = torch.randint(w, (n, 1), generator=generator, device=images.device)
    rows = _within(torch.arange(h, device=images.device), y, length)  # (n, h)
    columns = _within(torch.arange(w, device=images.device), x, length)  # (n, w)
    return images * ~(rows[:, :, None] & columns[:, None, :])[:, None]


def _within(positions: Tensor, centre: Tensor, length: int) -> Tensor:
    """Whether each of the positions (m,) lies in the interval around each centre (n, 1): (n, m)."""
    return (positions >= centre - length // 2) & (positions < centre + (length + 1) // 2)
