"""The network of NAS-Bench-101 (Ying et al. 2019, https://arxiv.org/abs/1902.09635, section 2; https://github.com/google-research/nasbench).

V: vertices of a cell; n: images, c: channels, h and w: height and width of a feature map.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.spaces.nasbench101 import Matrix, NASBench101Space, vertex_channels
from trainables.learning.networks.operations import check_counts, conv_bn, pooled, stem, stem_halvings

# Standard deviation of a standard normal variable truncated at two of its own, by which TensorFlow corrects.
TRUNCATED_DEVIATION = 0.87962566103423978


def conv_bn_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """(n, inputs, h, w) -> (n, outputs, h, w)."""
    return nn.Sequential(*conv_bn(inputs, outputs, kernel), nn.ReLU(inplace=True))


def operation(op: str, channels: int) -> nn.Module:
    """(n, c, h, w) -> (n, c, h, w)."""
    if op == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return conv_bn_relu(channels, channels, kernel=3 if op == "conv3x3-bn-relu" else 1)


class Cell(nn.Module):
    """One module: interior vertices add what reaches them, the output concatenates its interior predecessors.

    Edges from the input always go through a projection and are always added. A vertex reads the first channels of a wider predecessor.
    """

    def __init__(self, inputs: int, outputs: int, matrix: Matrix, ops: Sequence[str]) -> None:
        super().__init__()
        self.matrix = matrix
        self.channels = vertex_channels(inputs, outputs, matrix)  # (V,)
        targets = [v for v, edge in enumerate(matrix[0]) if edge]
        self.projections = nn.ModuleDict({str(v): conv_bn_relu(inputs, self.channels[v], kernel=1) for v in targets})
        self.ops = nn.ModuleList([operation(op, c) for op, c in zip(ops[1:-1], self.channels[1:-1], strict=True)])

    def forward(self, x: Tensor) -> Tensor:  # (n, inputs, h, w) -> (n, outputs, h, w)
        last = len(self.matrix) - 1
        values = [x]  # of each vertex
        for v, op in enumerate(self.ops, start=1):
            narrowed = [values[u][:, : self.channels[v]] for u in range(1, v) if self.matrix[u][v]]
            values.append(op(self._plus_projection(v, x, narrowed)))
        joined = [values[v] for v in range(1, last) if self.matrix[v][last]]
        return self._plus_projection(last, x, [torch.cat(joined, 1)] if joined else [])

    def _plus_projection(self, v: int, x: Tensor, terms: list[Tensor]) -> Tensor:
        """The sum of `terms` and, where there is an edge from the input to vertex `v`, of the projected input `x`."""
        if self.matrix[0][v]:
            terms = [*terms, self.projections[str(v)](x)]
        return sum(terms[1:], terms[0])


class NASBench101Network(nn.Module):
    """A 3x3 stem, stacks of equal modules; before each stack but the first, a max pool halves the side and the channels double.

    The publication has `channels` 128 in the first of 3 `stacks` of 3 `modules`, on images of 32 pixels. It defines no network for large
    images: above 64 pixels, the stem consists of strided convolutions, until the side is at most 64.

    `batch_norm_momentum` is the weight of a new batch in the running statistics, 1 - 0.997. They forget their initial values only after
    some 1,500 steps; a training of fewer steps needs a larger one. Weights start as in the publication.
    """

    branch = None  # see `learning.replay`

    def __init__(
        self,
        arch: Arch,
        classes: int,
        image_size: int = 32,
        image_channels: int = 3,
        channels: int = 128,
        stacks: int = 3,
        modules: int = 3,
        batch_norm_momentum: float = 0.003,
    ) -> None:
        super().__init__()
        counts = {"channels": channels, "stacks": stacks, "modules": modules}
        check_counts(classes=classes, image_size=image_size, image_channels=image_channels, **counts)
        arch = NASBench101Space().from_config(
            {**arch.to_config(), "space": NASBench101Space.name}
        )  # also of a space that inherits from this one
        matrix, ops = arch["adjacency"], arch["operations"]
        joined = sum(row[-1] for row in matrix[1:])
        if channels < joined:
            raise ConfigError(f"the output of this cell joins {joined} vertices, so channels must be at least {joined}, not {channels}")
        if not 0 < batch_norm_momentum <= 1:
            raise ConfigError(f"batch_norm_momentum must lie in (0, 1], not {batch_norm_momentum}")
        self.stem = nn.Sequential(*stem(image_channels, channels, stem_halvings(image_size)), nn.ReLU(inplace=True))
        blocks: list[nn.Module] = []
        width = channels
        for stack in range(stacks):
            blocks += [nn.MaxPool2d(2, ceil_mode=True)] if stack else []
            for _ in range(modules):
                blocks.append(Cell(width, channels << stack, matrix, ops))
                width = channels << stack
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width, classes)
        for module in self.modules():
            initialize(module, batch_norm_momentum)

    def forward(self, x: Tensor) -> Tensor:  # (n, image_channels, image_size, image_size) -> (n, classes)
        x = self.blocks(self.stem(x))
        logits: Tensor = self.classifier(pooled(x))
        return logits


def initialize(module: nn.Module, batch_norm_momentum: float) -> None:
    """Sets one layer as TensorFlow's defaults do in the reference; scale, shift and epsilon (1e-5) of batch norms are PyTorch's own.

    Convolutions: normal of variance 1 / fan-in, truncated at two deviations (`tf.variance_scaling_initializer`); classifier: Glorot
    uniform, biases zero (`tf.layers.dense`).
    """
    if isinstance(module, nn.Conv2d):
        deviation = 1 / sqrt(module.weight[0].numel()) / TRUNCATED_DEVIATION
        nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    elif isinstance(module, nn.BatchNorm2d):
        module.momentum = batch_norm_momentum
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
