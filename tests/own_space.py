"""A user's own search space with its network, in one module: `--space own_space:ChainSpace --trainable train`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.spaces import Cost, SearchSpace

KINDS = ("wide", "narrow", "skip")


class ChainSpace(SearchSpace):
    """Chains of `depth` layers, each of one of three kinds."""

    name = "chain"
    num_paths = 9
    network = "own_space:chain_network"

    def __init__(self, depth: int = 3) -> None:
        self.depth = depth

    def make(self, layers: list[str]) -> Arch:
        return Arch.make(self.name, "-".join(layers), layers=layers)

    def from_config(self, config: Mapping[str, Any]) -> Arch:
        layers = config.get("layers")
        if not isinstance(layers, (list, tuple)) or len(layers) != self.depth or not set(layers) <= set(KINDS):
            raise OutOfSpaceError(f"a chain has {self.depth} layers of the kinds {', '.join(KINDS)}; got {layers!r}")
        return self.make(list(layers))

    def sample(self, rng: np.random.Generator) -> Arch:
        return self.make(rng.choice(KINDS, size=self.depth).tolist())

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        changed = rng.random(self.depth) < rate / self.depth
        return self.make(np.where(changed, rng.choice(KINDS, size=self.depth), arch["layers"]).tolist())

    def neighbors(self, arch: Arch) -> list[Arch]:
        layers = list(arch["layers"])
        return [self.make([*layers[:i], kind, *layers[i + 1 :]]) for i in range(self.depth) for kind in KINDS if kind != layers[i]]

    def paths(self, arch: Arch) -> tuple[int, ...]:
        return tuple(sorted(3 * i + KINDS.index(kind) for i, kind in enumerate(arch["layers"][:3])))

    def cost(self, arch: Arch) -> Cost:
        return Cost(1000 * arch["layers"].count("wide"), 10)


class PlainSpace(ChainSpace):
    """One that names no network."""

    network = None


def chain_network(arch: Arch, classes: int, image_size: int, image_channels: int, width: int = 16) -> nn.Module:
    """A perceptron."""
    layers: list[nn.Module] = [nn.Flatten()]
    size = image_channels * image_size**2
    for kind in arch["layers"]:
        if kind != "skip":
            wanted = width if kind == "wide" else width // 2
            layers += [nn.Linear(size, wanted), nn.ReLU()]
            size = wanted
    return nn.Sequential(*layers, nn.Linear(size, classes))
