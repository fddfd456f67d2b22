"""Random changes of training images, a batch at a time, on the device where the images are.

n: images, c: channels, h and w: height and width in pixels. The generator must be on the device of the images.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.learning.data import Data
from trainables.learning.recipes import Recipe


def augmented(
    images: Tensor, data: Data, recipe: Recipe, normalize: nn.Module, generator: torch.Generator, seed_of: Callable[[int], int]
) -> Tensor:
    """Training images as a network sees them, changed at random as a recipe says and normalised: (n, c, h, w) -> (n, c, size, size).

    Args:
        images: values in [0, 1].
        seed_of: the seeds of this batch for what torchvision draws, numbered.
    """
    if data.view is not None:
        images = resized_crop(images, data.image_size, recipe.crop_area, seed_of(0))
    elif recipe.padding:
        images = random_crop(images, recipe.padding, generator)
    if recipe.flip and data.mirrored:
        images = random_flip(images, generator)
    if recipe.policy != "none":
        images = apply_policy(images, recipe.policy, seed_of(1))
    images = normalize(images)
    if recipe.erasing:
        images = erase(images, recipe.erasing, seed_of(2))
    return cutout(images, recipe.cutout, generator) if recipe.cutout else images


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """A random part of each image with a black margin of `padding` pixels: (n, c, h, w) -> (n, c, h, w)."""
    n, _, h, w = images.shape
    windows = F.pad(images, (padding,) * 4).unfold(2, h, 1).unfold(3, w, 1)  # a view: (n, c, 2 padding + 1, 2 padding + 1, h, w)
    top, left = torch.randint(2 * padding + 1, (2, n), generator=generator, device=images.device)
    return windows[torch.arange(n, device=images.device), :, top, left]


def resized_crop(images: Tensor, size: int, area: float, seed: int) -> Tensor:
    """A random part of each image, at least `area` of it and about as wide as high, as a square: (n, c, h, w) -> (n, c, size, size).

    The parts are drawn as `torchvision.transforms.v2.RandomResizedCrop` draws them; all are sampled in one step.
    """
    from torchvision.transforms.v2 import RandomResizedCrop

    n, c, h, w = images.shape
    with seeded(seed):
        crop = RandomResizedCrop(size, scale=(area, 1.0))
        drawn = [crop.make_params([images[0]]) for _ in range(n)]
    boxes = torch.tensor([[d["left"], d["top"], d["width"], d["height"]] for d in drawn], dtype=images.dtype, device=images.device)
    scales, shifts = boxes[:, 2:] / boxes.new_tensor([w, h]), (2 * boxes[:, :2] + boxes[:, 2:]) / boxes.new_tensor([w, h]) - 1
    grid = F.affine_grid(torch.cat([torch.diag_embed(scales), shifts[:, :, None]], 2), [n, c, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def middle(images: Tensor, size: int) -> Tensor:
    """(..., h, w) -> (..., size, size)."""
    top, left = ((length - size) // 2 for length in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def apply_policy(images: Tensor, policy: str, seed: int) -> Tensor:
    """Each image after random changes of colours and shapes, by a policy of torchvision: (n, c, h, w) in [0, 1], as the images.

    "trivial" is TrivialAugmentWide (Müller & Hutter 2021, arXiv:2103.10158), "rand" RandAugment (Cubuk et al. 2020, arXiv:1909.13719),
    "auto" AutoAugment (Cubuk et al. 2019, arXiv:1805.09501), "augmix" AugMix (Hendrycks et al. 2020, arXiv:1912.02781).
    """
    from torchvision.transforms import v2

    policies: dict[str, Any] = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment, "auto": v2.AutoAugment, "augmix": v2.AugMix}
    change, whole = policies[policy](), images.mul(255).round_().to(torch.uint8)
    with seeded(seed):
        return torch.stack([change(image) for image in whole]).to(images.dtype).div_(255)


def erase(images: Tensor, probability: float, seed: int) -> Tensor:
    """Zeros in a random rectangle of some of the images: (n, c, h, w) -> (n, c, h, w). For normalised images.

    Zhong et al. 2020, https://arxiv.org/abs/1708.04896.
    """
    from torchvision.transforms.v2 import RandomErasing

    change = RandomErasing(probability)
    with seeded(seed):
        return torch.stack([change(image) for image in images])


def mix(images: Tensor, labels: Tensor, classes: int, mixup: float, cutmix: float, seed: int) -> tuple[Tensor, Tensor]:
    """Each image mixed with another one by MixUp or CutMix, where both alphas are above 0 by one of them at random.

    (n, c, h, w), (n,) -> (n, c, h, w), (n, classes) probabilities.
    """
    from torchvision.transforms import v2

    kinds: list[nn.Module] = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
    kinds += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
    with seeded(seed):
        mixed: tuple[Tensor, Tensor] = v2.RandomChoice(kinds)(images, labels)
    return mixed


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it torch's global generator of the CPU, from which torchvision draws, starts from a seed; then it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


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
