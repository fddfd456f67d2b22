"""Networks of inverted residual blocks: MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381), EfficientNet (Tan & Le 2019,
https://arxiv.org/abs/1905.11946), and what lies between and around them; of the pieces of torchvision.

n: images, c: channels, h and w: height and width of a feature map.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation, StochasticDepth

from raynas.errors import ConfigError
from trainables.learning.networks.operations import check_counts, pooled

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage; the stem has one of 2 as well
STEM, HEAD = 32, 1280  # channels
LEAST = 4  # pixels of the last feature map's side, where the image has as many
ACTIVATIONS: Mapping[str, Callable[..., nn.Module]] = {"relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish}


class InvertedResidual(nn.Module):
    """A 1x1 convolution that widens, a depthwise one, squeeze and excitation if wanted, a 1x1 one that narrows; plus the input if it fits.

    The squeezed channels are a quarter of the block's inputs, as in EfficientNet.
    """

    def __init__(
        self, inputs: int, outputs: int, choices: Mapping[str, Any], stride: int, activation: Callable[..., nn.Module], drop: float
    ) -> None:
        super().__init__()
        hidden, kernel = inputs * choices["expansion"], choices["kernel"]
        layers: list[nn.Module] = [Conv2dNormActivation(inputs, hidden, 1, activation_layer=activation)] if hidden != inputs else []
        layers.append(Conv2dNormActivation(hidden, hidden, kernel, stride, groups=hidden, activation_layer=activation))
        if choices["squeeze"]:
            layers.append(SqueezeExcitation(hidden, max(1, inputs // 4), activation=partial(activation, inplace=True)))
        layers.append(Conv2dNormActivation(hidden, outputs, 1, activation_layer=None))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs
        self.drop = StochasticDepth(drop, "row")

    def forward(self, x: Tensor) -> Tensor:  # (n, inputs, h, w) -> (n, outputs, h / stride, w / stride), rounded up
        y: Tensor = self.layers(x)
        return x + self.drop(y) if self.residual else y


class MobileNetwork(nn.Module):
    """A stem, seven stages of inverted residual blocks, global pooling and a linear classifier; the image is resized first.

    `width` is a factor on all channels. `dropout` of the classifier is 0.2 in both publications; `stochastic_depth`, the probability with
    which training leaves out the last block, falling linearly to the first, is 0.2 in EfficientNet-B0 and 0 in MobileNetV2.

    Images are halved five times. Of small ones the first of these halvings are left out, so that the last feature map keeps a side of at
    least 4 pixels: of images of 32 pixels, the first two.
    """

    branch = None  # see `learning.replay`

    def __init__(
        self,
        choices: Mapping[str, Any],
        classes: int,
        image_size: int = 224,
        image_channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.2,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        check_counts(classes=classes, image_size=image_size, image_channels=image_channels)
        if not 0 < width <= 10 or not 0 <= dropout < 1 or not 0 <= stochastic_depth < 1:
            given = f"width={width}, dropout={dropout}, stochastic_depth={stochastic_depth}"
            raise ConfigError(f"width of a mobile network must be above 0, at most 10, dropout and stochastic_depth in [0, 1); not {given}")
        self.size = max(1, round(image_size * choices["resolution"]))
        self.resized = self.size != image_size
        activation, stages = ACTIVATIONS[choices["activation"]], [choices[f"stage{i}"] for i in range(1, 1 + len(STRIDES))]
        stem_stride, *strides = _strides(self.size)
        channels = _channels(STEM, width)
        layers: list[nn.Module] = [Conv2dNormActivation(image_channels, channels, 3, stem_stride, activation_layer=activation)]
        blocks = [(stage, 1 if i else stride) for stage, stride in zip(stages, strides, strict=True) for i in range(stage["depth"])]
        for i, (stage, stride) in enumerate(blocks):
            outputs = _channels(stage["width"], width)
            layers.append(InvertedResidual(channels, outputs, stage, stride, activation, stochastic_depth * i / len(blocks)))
            channels = outputs
        head = _channels(HEAD, max(1.0, width))
        self.features = nn.Sequential(*layers, Conv2dNormActivation(channels, head, 1, activation_layer=activation))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, classes))
        self._initialize()

    def _initialize(self) -> None:
        """As both publications' networks in torchvision, but for the classifier, whose weights are MobileNetV2's."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:  # (n, image_channels, image_size, image_size) -> (n, classes)
        if self.resized:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        logits: Tensor = self.classifier(pooled(self.features(x)))
        return logits


def _strides(size: int) -> tuple[int, ...]:
    """Of the stem and the stages, for images of this side."""
    strides, halvings = [2, *STRIDES], 0
    while -(-size // 2) >= LEAST:
        size, halvings = -(-size // 2), halvings + 1
    left_out = max(0, strides.count(2) - halvings)
    for i in [i for i, stride in enumerate(strides) if stride == 2][:left_out]:
        strides[i] = 1
    return tuple(strides)


def _channels(channels: int, width: float) -> int:
    """The multiple of 8 that is nearest to the product, but not below nine tenths of it, as in both publications' code."""
    wanted = channels * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest
