"""A search space of your own, with its network: `--space my_space:Chain`."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from raynas import Arch, Cost, Graph, OutOfSpaceError, SearchSpace

LAYERS = ("conv3", "conv1", "skip")


@dataclass
class Chain(SearchSpace):
    """Chains of layers; a space says how to sample and to change architectures, and the facts that others ask for."""

    depth: int = 4

    name = "chain"
    num_paths = 3 * 8
    graph_operations = ("input", *LAYERS, "output")  # only for predictors that read graphs
    network = "my_space:chain_network"  # only for trials that train

    def from_config(self, config):
        layers = config.get("layers", ())
        if len(layers) != self.depth or not set(layers) <= set(LAYERS):
            raise OutOfSpaceError(f"a chain has {self.depth} layers of the kinds {', '.join(LAYERS)}, not {layers}")
        return Arch.make(self.name, "-".join(layers), layers=list(layers))

    def sample(self, rng):
        return self.from_config({"layers": rng.choice(LAYERS, self.depth).tolist()})

    def neighbors(self, arch):
        layers = list(arch["layers"])
        changed = [(i, kind) for i in range(self.depth) for kind in LAYERS if kind != layers[i]]
        return [self.from_config({"layers": [*layers[:i], kind, *layers[i + 1 :]]}) for i, kind in changed]

    def mutate(self, arch, rng, rate=1.0):
        others = self.neighbors(arch)
        return others[rng.integers(len(others))]

    def paths(self, arch):
        return tuple(3 * i + LAYERS.index(kind) for i, kind in enumerate(arch["layers"]))

    def cost(self, arch):
        weights = sum({"conv3": 9 * 64, "conv1": 64, "skip": 0}[kind] for kind in arch["layers"])
        return Cost(weights, 64 * weights)

    def graph(self, arch):
        operations = ["input", *arch["layers"], "output"]
        return Graph(np.eye(len(operations), k=1, dtype=np.int64), np.array([self.graph_operations.index(op) for op in operations]))


def chain_network(arch, classes, image_size, image_channels, width=8):
    """The network of a chain, for images of any size."""
    layers = {"conv3": lambda: nn.Conv2d(width, width, 3, padding=1), "conv1": lambda: nn.Conv2d(width, width, 1), "skip": nn.Identity}
    body = [module for kind in arch["layers"] for module in (layers[kind](), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(image_channels, width, 1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
