"""The networks that DARTS evaluates (Liu et al. 2019, https://arxiv.org/abs/1806.09055; https://github.com/quark0/darts, cnn/model.py).

n: images, c: channels, h and w: height and width of a feature map.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.spaces.darts import NODES, DARTSSpace
from trainables.learning.networks.operations import LARGE, Zero, check_counts, conv_bn, pooled, relu_conv_bn, stem


def depthwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool = True, inplace: bool = False) -> nn.Sequential:
    """ReLU, depthwise and 1x1 convolution, batch norm: (n, c, h, w) -> (n, c, h / stride, w / stride)."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.ReLU(inplace),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        *conv_bn(channels, channels, kernel=1, affine=affine),
    )


def operation(op: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    """(n, c, h, w) -> (n, c, h / stride, w / stride); poolings have no batch norm here, unlike during DARTS' search.

    `affine`: whether batch norms have weights.
    """
    if op.startswith("sep_conv"):
        kernel = int(op[-1])
        return nn.Sequential(*depthwise(channels, kernel, stride, 1, affine), *depthwise(channels, kernel, 1, 1, affine, inplace=True))
    if op.startswith("dil_conv"):
        return depthwise(channels, int(op[-1]), stride, 2, affine)
    if op == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    if op == "none":
        return Zero(stride)
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


class Picked(torch.autograd.Function):
    """The values at the even, and those at the odd rows and columns: (n, c, h, w) -> 2 x (n, c, h/2, w/2).

    The gradient of indexing would be two tensors of zeros as large as the input, whatever its memory format in the default one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.shape = x.shape
        ctx.format = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        even, odd = (x[:, :, i::2, i::2].contiguous(memory_format=ctx.format) for i in (0, 1))
        return even, odd

    @staticmethod
    def backward(ctx: Any, even: Tensor, odd: Tensor) -> Tensor:
        gradient = torch.empty(ctx.shape, dtype=even.dtype, device=even.device, memory_format=ctx.format).zero_()
        gradient[:, :, ::2, ::2] = even
        gradient[:, :, 1::2, 1::2] = odd
        return gradient


class FactorizedReduce(nn.Module):
    """Halves an even height and width; one half of the channels sees the even positions of the input, the other half the odd ones.

    The positions are picked here instead of by convolutions of stride 2, whose result is the same: on the CPU, the gradient of a 1x1
    convolution of stride 2 in the channels-last format writes outside its memory in PyTorch 2.14.
    """

    def __init__(self, inputs: int, outputs: int, affine: bool = True) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs, affine=affine)

    def forward(self, x: Tensor) -> Tensor:  # (n, inputs, h, w) -> (n, outputs, h/2, w/2)
        y: Tensor = self.norm(self.halves(x))
        return y

    def halves(self, x: Tensor) -> Tensor:
        """Before the batch norm."""
        even, odd = Picked.apply(x)
        return torch.cat([self.even(even.relu_()), self.odd(odd.relu_())], 1)


def path_scales(paths: int, images: Tensor, keep: Tensor) -> Tensor:
    """By what drop path multiplies the results of `paths` operations for each image: (paths, n, 1, 1, 1).

    1 / keep with the probability `keep`, which is (), otherwise 0 (Larsson et al. 2017, as DARTS uses it).
    """
    kept = torch.rand(paths, len(images), 1, 1, 1, device=images.device) < keep
    return (kept / keep).to(images.dtype)


class Cell(nn.Module):
    """4 nodes, each the sum of two operations, concatenated.

    Its inputs come rectified, as they would be rectified first by whatever reads them; so does a node that several operations rectify.
    """

    def __init__(
        self, pairs: Sequence[tuple[str, int]], before: int, last: int, channels: int, reduction: bool, reduction_before: bool
    ) -> None:
        super().__init__()
        self.before = FactorizedReduce(before, channels) if reduction_before else conv_bn(before, channels, kernel=1)
        self.last = conv_bn(last, channels, kernel=1)
        self.sources = tuple(source for _, source in pairs)  # (8,)
        ops = [operation(op, channels, 2 if reduction and source < 2 else 1) for op, source in pairs]
        self.rectified = tuple(isinstance(op, nn.Sequential) for op in ops)  # (8,): whose first layer, a ReLU, the cell does itself
        self.ops = nn.ModuleList([op[1:] if isinstance(op, nn.Sequential) else op for op in ops])

    def forward(self, before: Tensor, last: Tensor, keep: Tensor | None) -> Tensor:
        """Rectified outputs of the cell before the last one and of the last one -> (n, 4c, h, w), h and w halved in a reduction cell."""
        states = [self.before(before), self.last(last)]
        rectified: dict[int, Tensor] = {}  # by the number of the state
        scales = None if keep is None else path_scales(len(self.ops), states[0], keep)
        for node in range(NODES):
            i, j = 2 * node, 2 * node + 1
            left, right = self._branch(i, states, rectified), self._branch(j, states, rectified)
            if scales is not None and not isinstance(self.ops[i], nn.Identity):
                left = left * scales[i]
            if scales is None or isinstance(self.ops[j], nn.Identity):
                states.append(left + right)
            else:
                states.append(torch.addcmul(left, right, scales[j]))
        return torch.cat(states[2:], 1)

    def _branch(self, i: int, states: list[Tensor], rectified: dict[int, Tensor]) -> Tensor:
        source = self.sources[i]
        x = states[source]
        if self.rectified[i]:
            x = rectified[source] if source in rectified else rectified.setdefault(source, x.relu())
        result: Tensor = self.ops[i](x)
        return result


def auxiliary_head(inputs: int, classes: int, side: int, stride: int, last_norm: bool) -> nn.Sequential:
    """(n, inputs, side, side) -> (n, classes). A 5x5 average pooling must leave 2x2.

    Raises:
        ConfigError: it leaves another size.
    """
    if (side - 5) // stride != 1:
        fits = f"{5 + stride}x{5 + stride} to {4 + 2 * stride}x{4 + 2 * stride}"
        raise ConfigError(f"the auxiliary head needs a feature map of {fits}, here it is {side}x{side}; set auxiliary to false")
    return nn.Sequential(
        nn.ReLU(),
        nn.AvgPool2d(5, stride),  # (n, inputs, 2, 2)
        *conv_bn(inputs, 128, kernel=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(128, 768, 2, bias=False),  # (n, 768, 1, 1)
        *([nn.BatchNorm2d(768)] if last_norm else []),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(768, classes),
    )


class DARTSNetwork(nn.Module):
    """Cells and heads; `NetworkCIFAR` and `NetworkImageNet` add the stems. Weights start with PyTorch's defaults, as in the publication.

    `drop_path_prob`, a float, 0 at first, is the probability with which training drops the result of an operation other than the identity.

    Args:
        stems: what makes the input of the first cell before-last and, of that, the last one.
        width: output channels of both stems.
        side: height and width of the second stem's output; the first stem's are twice as large where `halved`.
        head_stride: of the pooling of the auxiliary head.
    """

    def __init__(
        self,
        arch: Arch,
        classes: int,
        stems: tuple[nn.Module, nn.Module],
        width: int,
        side: int,
        halved: bool,
        channels: int,
        layers: int,
        auxiliary: bool,
        head_stride: int,
    ) -> None:
        super().__init__()
        arch = DARTSSpace(with_none=True).from_config(
            {**arch.to_config(), "space": DARTSSpace.name}
        )  # also of a space that inherits from this one
        self.has_auxiliary = auxiliary
        self.auxiliary_layer = 2 * layers // 3  # the head reads the output of this cell
        self.stems = nn.ModuleList(stems)
        self.cells = nn.ModuleList()
        before, last, reduction_before = width, width, halved
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            channels, side = (2 * channels, side // 2) if reduction else (channels, side)
            self.cells.append(Cell(arch["reduce" if reduction else "normal"], before, last, channels, reduction, reduction_before))
            before, last, reduction_before = last, NODES * channels, reduction
            if auxiliary and layer == self.auxiliary_layer:
                self.auxiliary = auxiliary_head(last, classes, side, head_stride, last_norm=not halved)
        self.classifier = nn.Linear(last, classes)
        # A tensor, as a compiled network compiles anew whenever a number that it reads changes; not persistent, as it is no weight.
        self.keep: Tensor
        self.register_buffer("keep", torch.ones(()), persistent=False)
        self.drop_path_prob = 0.0

    @property
    def branch(self) -> bool:
        """What decides which operations run, see `replayed`."""
        return self._drops_paths

    @property
    def drop_path_prob(self) -> float:
        return self._drop_path_prob

    @drop_path_prob.setter
    def drop_path_prob(self, probability: float) -> None:
        if not 0 <= probability < 1:
            raise ConfigError(f"the probability to drop a path must lie in [0, 1), not {probability}")
        self._drop_path_prob = probability
        self._drops_paths = probability > 0
        self.keep.fill_(1 - probability)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(n, image_channels, image_size, image_size) -> (n, classes), in training with auxiliary head two of them."""
        before: Tensor = self.stems[0](x).relu_()
        last: Tensor = before if isinstance(self.stems[1], nn.Identity) else self.stems[1](before).relu_()
        keep = self.keep if self.training and self._drops_paths else None
        features = last  # those that the auxiliary head reads
        for layer, cell in enumerate(self.cells):
            before, last = last, cell(before, last, keep)
            if layer < len(self.cells) - 1:
                last = last.relu_()
            if layer == self.auxiliary_layer:
                features = last
        logits: Tensor = self.classifier(pooled(last))
        return (logits, self.auxiliary(features)) if self.has_auxiliary and self.training else logits


class NetworkCIFAR(DARTSNetwork):
    """For small images, whose side is a multiple of 4: the stem has 3 * `channels`, cells at 1/3 and 2/3 of `layers` reduce.

    The auxiliary head fits images of 32 to 40 pixels.
    """

    def __init__(
        self,
        arch: Arch,
        classes: int,
        image_size: int = 32,
        image_channels: int = 3,
        channels: int = 36,
        layers: int = 20,
        auxiliary: bool = False,
    ) -> None:
        counts = {"channels": channels, "layers": layers}
        check_counts(classes=classes, image_size=image_size, image_channels=image_channels, **counts)
        if image_size % 4:
            raise ConfigError(f"the DARTS network for small images needs an image_size that is a multiple of 4, not {image_size}")
        stems = (stem(image_channels, 3 * channels), nn.Identity())
        super().__init__(arch, classes, stems, 3 * channels, image_size, False, channels, layers, auxiliary, head_stride=3)


class NetworkImageNet(DARTSNetwork):
    """For large images, whose side is a multiple of 32: three strided convolutions come before the cells.

    The auxiliary head fits images of 224 or 256 pixels; it lacks its last batch norm, as in the published experiments.
    """

    def __init__(
        self,
        arch: Arch,
        classes: int,
        image_size: int = 224,
        image_channels: int = 3,
        channels: int = 48,
        layers: int = 14,
        auxiliary: bool = False,
    ) -> None:
        counts = {"channels": channels, "layers": layers}
        check_counts(classes=classes, image_size=image_size, image_channels=image_channels, **counts)
        if image_size % 32 or channels % 2:
            given = f"image_size={image_size}, channels={channels}"
            need = "an image_size that is a multiple of 32 and an even number of channels"
            raise ConfigError(f"the DARTS network for large images needs {need}; got {given}")
        stems = (stem(image_channels, channels, halvings=2), relu_conv_bn(channels, channels, stride=2))
        super().__init__(arch, classes, stems, channels, image_size // 8, True, channels, layers, auxiliary, head_stride=2)


def darts_network(
    arch: Arch,
    classes: int,
    image_size: int = 32,
    image_channels: int = 3,
    channels: int | None = None,
    layers: int | None = None,
    auxiliary: bool = False,
) -> DARTSNetwork:
    """`NetworkCIFAR`, or `NetworkImageNet` above 64 pixels; None: 36 channels and 20 layers, or 48 and 14, as published."""
    network = NetworkImageNet if image_size > LARGE else NetworkCIFAR
    sizes = {name: size for name, size in {"channels": channels, "layers": layers}.items() if size is not None}
    return network(arch, classes, image_size, image_channels, auxiliary=auxiliary, **sizes)
