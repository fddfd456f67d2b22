"""Networks for phones: seven stages of inverted residual blocks, a space that holds MobileNetV2 and EfficientNet-B0."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from raynas.spaces.base import Published
from raynas.spaces.choice import ChoiceSpace
from raynas.spaces.choices import Categorical, Ordered, Whole

WIDTHS = ((8, 16, 24), (16, 24, 32), (24, 32, 40, 48), (48, 64, 80, 96), (80, 96, 112, 128), (128, 160, 192, 224), (256, 320, 384))
DEPTHS = (2, 4, 4, 4, 4, 5, 2)  # at most


def _stage(depth: int, widths: Sequence[int], first: bool) -> dict[str, Any]:
    return {
        "depth": Whole(1, depth),
        "width": Ordered(*widths),
        "kernel": Ordered(3, 5, 7),
        "expansion": Ordered(*((1, 2, 3) if first else (2, 3, 4, 6))),
        "squeeze": Categorical(False, True),
    }


CHOICES: Mapping[str, Any] = {
    "activation": Categorical("relu6", "silu", "hardswish"),
    "resolution": Ordered(0.5, 0.625, 0.75, 0.875, 1.0),
    **{f"stage{i + 1}": _stage(depth, widths, i == 0) for i, (depth, widths) in enumerate(zip(DEPTHS, WIDTHS, strict=True))},
}


def _published(activation: str, squeeze: bool, depths: Sequence[int], widths: Sequence[int], kernels: Sequence[int]) -> dict[str, Any]:
    rows = enumerate(zip(depths, widths, kernels, strict=True), 1)
    stages = {
        f"stage{i}": {"depth": depth, "width": width, "kernel": kernel, "expansion": 1 if i == 1 else 6, "squeeze": squeeze}
        for i, (depth, width, kernel) in rows
    }
    return {"space": "mobile", "choices": {"activation": activation, "resolution": 1.0, **stages}}


class MobileSpace(ChoiceSpace):
    """Inverted residual blocks in seven stages: depth, width, kernel, expansion, squeeze-and-excitation; activation and resolution.

    `resolution` is the share of the images' side to which the network resizes them. `classes`, `image_size` and `channels` are those of
    the network whose cost is counted, by default ImageNet's.
    """

    name = "mobile"
    recipes: ClassVar[Mapping[str, str]] = {"search": "photos-search", "train": "photos"}
    published: ClassVar[Mapping[str, Published]] = {
        "MobileNetV2": Published(
            _published("relu6", False, (1, 2, 3, 4, 3, 3, 1), (16, 24, 32, 64, 96, 160, 320), (3,) * 7),
            "Sandler et al. 2018, https://arxiv.org/abs/1801.04381",
        ),
        "EfficientNet-B0": Published(
            _published("silu", True, (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320), (3, 3, 5, 3, 5, 5, 3)),
            "Tan & Le 2019, https://arxiv.org/abs/1905.11946",
        ),
    }

    def __init__(self, classes: int = 1000, image_size: int = 224, channels: int = 3) -> None:
        super().__init__(self.name, CHOICES, "trainables.learning.networks.mobile:MobileNetwork", classes, image_size, channels)
