"""Zero-cost proxies: what one batch of training images tells about a network that has not been trained.

n: images, c: channels, h and w: height and width in pixels, u: units of a layer.
θ: weights of the convolutions and linear layers; L: mean cross entropy of the batch, with batch norms that see the batch.

    grad_norm  Σ over layers of ‖∂L/∂θ‖
    synflow    log(1 + Σ |θ ∂R/∂θ|), R the sum of the outputs for an image of ones of the network without batch norms and with |θ| for θ
               Tanaka et al. 2020, https://arxiv.org/abs/2006.05467
    nwot       log |det K|, K (n, n) in how many rectified units two images are both positive or both not
               Mellor et al. 2021, https://arxiv.org/abs/2006.04647

The first two as Abdelfattah et al. 2021 (https://arxiv.org/abs/2101.08134) take them for whole networks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raynas.arch import Arch
from raynas.errors import RaynasError
from raynas.spaces import SearchSpace
from trainables.learning.augmentation import middle
from trainables.learning.blame import blamed
from trainables.learning.data import Data
from trainables.learning.networks import made_of, make_network
from trainables.learning.recipes import Recipe
from trainables.learning.trainer import Normalize

NAMES = ("grad_norm", "synflow", "nwot")
IMAGES = 32  # of the batch, at most

_LAYERS = (nn.Conv2d, nn.Linear)
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish)  # positive where what they are given is


@dataclass(frozen=True, eq=False)
class AtInitialisation:
    """The proxies of the networks that architectures of a space have in a training, on the CPU. It can be pickled.

    Args:
        images, labels: (n, c, h, w) as a network sees them, and (n,).
        options: of the network, such as its width.
        seed: of the weights.
    """

    space: SearchSpace
    images: Tensor
    labels: Tensor
    classes: int
    options: Mapping[str, Any]
    seed: int

    @classmethod
    def of(cls, space: SearchSpace, data: Data, recipe: Recipe, seed: int) -> "AtInitialisation":
        """Those of a training as `recipe` says, on IMAGES of its training images, unchanged and drawn with `seed`.

        Raises:
            DataError: an image that is streamed cannot be read.
        """
        chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:IMAGES]
        ((images, labels),) = data.train.batches([chosen])
        seen = Normalize(data.mean, data.std)(middle(images, data.image_size))
        return cls(space, seen.contiguous(), labels, data.classes, recipe.network_options(space.name), seed)

    def __call__(self, arch: Arch) -> tuple[float, ...]:
        """One number for each of NAMES, not a number where it is not defined or the network fails."""
        try:
            return self.computed(arch)
        except RaynasError:  # its trial will say so
            return (nan,) * len(NAMES)

    def computed(self, arch: Arch) -> tuple[float, ...]:
        """The same.

        Raises:
            RaynasError: the network cannot be made, or fails.
        """
        channels, size = self.images.shape[1:3]
        with torch.random.fork_rng(devices=[]), blamed(made_of(self.space, arch)):
            torch.manual_seed(self.seed)
            network = make_network(self.space, arch, self.classes, size, channels, **self.options)
            norm, agreement = of_batch(network, self.images, self.labels)
            return norm, synflow(network, self.images[:1]), agreement


def of_batch(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """grad_norm and nwot for images (n, c, h, w) and labels (n,); without rectified units the latter is not a number."""
    kernels: list[Tensor] = []

    def agree(layer: nn.Module, args: Any, output: Tensor) -> None:
        signs = (output.detach().flatten(1) > 0).to(output.dtype) * 2 - 1  # (n, u): products are agreements minus disagreements
        kernels.append((signs @ signs.T + signs.shape[1]).double() / 2)

    network.train()
    with _hooked(network, _RECTIFIERS, agree):
        output = network(images)
    loss = F.cross_entropy(output[0] if isinstance(output, tuple) else output, labels)
    norms = [slope.norm().item() for slope in _slopes(loss, _weights(network))]
    return sum(norms), float(torch.linalg.slogdet(torch.stack(kernels).sum(0)).logabsdet) if kernels else nan


def synflow(network: nn.Module, image: Tensor) -> float:
    """That of a network for images such as this one, (1, c, h, w). It changes the network for good."""
    network.double().eval()  # products of many layers overflow float32
    weights = _weights(network)
    with torch.no_grad():
        for value in network.parameters():
            value.abs_()
    # A copy, as what rectifies in place would change the input of the norm, which others may read.
    with _hooked(network, (_BatchNorm,), lambda layer, args, output: args[0].clone()):
        total = network(torch.ones_like(image, dtype=torch.float64)).sum()
    flows = [(slope * weight).abs().sum() for slope, weight in zip(_slopes(total, weights), weights, strict=True)]
    return torch.stack(flows).sum().log1p().item()


def _weights(network: nn.Module) -> list[Tensor]:
    """θ, one tensor for each layer."""
    return [layer.weight for layer in network.modules() if isinstance(layer, _LAYERS)]


def _slopes(value: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradient by each, 0 by those that have no part in the value."""
    return torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)


@contextmanager
def _hooked(network: nn.Module, kinds: tuple[type[nn.Module], ...], hook: Callable[..., Any]) -> Iterator[None]:
    """Within it `hook` (layer, arguments, output) sees what layers of these kinds put out, and may return something else for it."""
    handles = [layer.register_forward_hook(hook) for layer in network.modules() if isinstance(layer, kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
