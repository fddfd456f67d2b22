"""The network of NAS-Bench-201 (Dong & Yang 2020, https://arxiv.org/abs/2001.00326, section 2.1).

n: images, c: channels, h and w: height and width of a feature map.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from raynas.arch import Arch
from raynas.spaces.nasbench201 import EDGES, NASBench201Space
from trainables.learning.networks.operations import Zero, check_counts, pooled, relu_conv_bn, stem, stem_halvings


def operation(op: str, channels: int) -> nn.Module:
    """(n, c, h, w) -> (n, c, h, w)."""
    if op.startswith("nor_conv"):
        return relu_conv_bn(channels, channels, kernel=int(op[-1]))
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return Zero() if op == "none" else nn.Identity()


class Cell(nn.Module):
    """4 nodes: the input and 3 sums, the last of which is the output."""

    def __init__(self, channels: int, ops: Sequence[str]) -> None:
        super().__init__()
        self.ops = nn.ModuleList([operation(op, channels) for op in ops])  # in the order of EDGES

    def forward(self, x: Tensor) -> Tensor:  # (n, c, h, w) -> (n, c, h, w)
        nodes = [x]  # the values of all nodes so far
        for node in range(1, 4):
            terms = [op(nodes[source]) for (source, target), op in zip(EDGES, self.ops, strict=True) if target == node]
            x = sum(terms[1:], terms[0])
            nodes.append(x)
        return x


class Reduction(nn.Module):
    """The residual block between two stages; for an odd side the pooling rounds up, as the convolution does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(*relu_conv_bn(inputs, outputs, stride=2), *relu_conv_bn(outputs, outputs))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:  # (n, c, h, w) -> (n, 2c, h/2, w/2)
        y: Tensor = self.shortcut(x) + self.convolutions(x)
        return y


class NASBench201Network(nn.Module):
    """A 3x3 stem, stages of equal cells, each stage after the first opened by a residual block that doubles the channels.

    The publication has `channels` 16 in the first of 3 `stages` of 5 `cells`, on images of 32 (or 16) pixels. It defines no network for
    large images: above 64 pixels, the stem consists of strided convolutions, until the side is at most 64.
    """

    branch = None  # see `learning.replay`

    def __init__(
        self, arch: Arch, classes: int, image_size: int = 32, image_channels: int = 3, channels: int = 16, stages: int = 3, cells: int = 5
    ) -> None:
        super().__init__()
        counts = {"channels": channels, "stages": stages, "cells": cells}
        check_counts(classes=classes, image_size=image_size, image_channels=image_channels, **counts)
        space = NASBench201Space()
        ops = space.operations(space.from_config({**arch.to_config(), "space": space.name}))  # also of a space that inherits from this one
        self.stem = stem(image_channels, channels, stem_halvings(image_size))
        blocks: list[nn.Module] = []
        for stage in range(stages):
            width = channels << stage
            blocks += [Reduction(width // 2, width)] if stage else []
            blocks += [Cell(width, ops) for _ in range(cells)]
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:  # (n, image_channels, image_size, image_size) -> (n, classes)
        x = self.blocks(self.stem(x))
        logits: Tensor = self.classifier(pooled(self.last(x)))
        return logits
