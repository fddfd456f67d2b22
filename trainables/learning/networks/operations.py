"""Layers that several networks share. n: images, c: channels, h and w: height and width of a feature map.

Only what follows a batch norm is rectified in place: nothing else reads it, and its gradient does not need the value from before.
"""

import torch
from torch import Tensor, nn

from raynas.errors import ConfigError

LARGE = 64  # images of a longer side start with strided convolutions


def check_counts(**counts: int) -> None:
    """Raises ConfigError unless all are at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} of a network must be at least 1, not {count}")


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, affine: bool = True) -> nn.Sequential:
    """Convolution without bias, then batch norm: (n, inputs, h, w) -> (n, outputs, h / stride, w / stride), rounded up."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, affine=affine))


def relu_conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, affine: bool = True) -> nn.Sequential:
    """As `conv_bn`, of the rectified input."""
    return nn.Sequential(nn.ReLU(), *conv_bn(inputs, outputs, kernel, stride, affine))


def stem(image_channels: int, channels: int, halvings: int = 0) -> nn.Sequential:
    """A 3x3 convolution with batch norm; or `halvings` of them of stride 2, each twice as wide as the one before, rectified in between."""
    layers: list[nn.Module] = []
    inputs = image_channels
    for doublings in range(max(1, halvings) - 1, -1, -1):
        outputs = max(1, channels >> doublings)
        layers += [nn.ReLU(inplace=True)] if layers else []
        layers += conv_bn(inputs, outputs, stride=2 if halvings else 1)
        inputs = outputs
    return nn.Sequential(*layers)


def stem_halvings(image_size: int) -> int:
    """How often the stem halves an image until its side is at most 64: never up to 64 pixels, twice for 224."""
    halvings = 0
    while image_size > LARGE:
        image_size = (image_size + 1) // 2
        halvings += 1
    return halvings


def pooled(x: Tensor) -> Tensor:
    """Mean over all positions: (n, c, h, w) -> (n, c)."""
    return x.mean((2, 3))


class Zero(nn.Module):
    """The operation `none`: zeros, of half the height and width for stride 2.

    It multiplies, as the published code does, so that all that comes before has a gradient, of zero, and decays like other weights.
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


def memory_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """The layout in which `network` is fastest: channels last, but on a CPU not with a strided 1x1 convolution among its layers.

    The gradient of one writes outside of its memory there, where a processor lacks AVX-512 (PyTorch 2.14); it is right in the default
    format, as are those of all other convolutions in both.
    """
    strided = any(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1) for m in network.modules())
    return torch.contiguous_format if device.type == "cpu" and strided else torch.channels_last
