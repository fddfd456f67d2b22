"""Published architectures, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raynas.spaces.darts import GENOTYPES


@dataclass(frozen=True)
class Published:
    """An architecture and where it comes from."""

    config: Mapping[str, Any]  # for `SearchSpace.from_config`
    source: str


_BANANAS = "White et al. 2021, https://arxiv.org/abs/1910.11858"
_DARTS = "Liu et al. 2019, https://arxiv.org/abs/1806.09055"
_SOURCES = {
    "BANANAS": f"found by BANANAS: {_BANANAS}",
    "DARTS_V1": f"found by first-order DARTS: {_DARTS}",
    "DARTS_V2": f"found by second-order DARTS: {_DARTS}",
    "ASHA200": f"found by ASHA in the experiments of {_BANANAS}",
}

# fmt: off
PDARTS = {
    "normal": [
        ("skip_connect", 0), ("dil_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 0), ("dil_conv_5x5", 4),
    ],
    "reduce": [
        ("avg_pool_3x3", 0), ("sep_conv_5x5", 1),
        ("sep_conv_3x3", 0), ("dil_conv_5x5", 2),
        ("max_pool_3x3", 0), ("dil_conv_3x3", 1),
        ("dil_conv_3x3", 1), ("dil_conv_5x5", 3),
    ],
}
PC_DARTS = {
    "normal": [
        ("sep_conv_3x3", 1), ("skip_connect", 0),
        ("sep_conv_3x3", 0), ("dil_conv_3x3", 1),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 1),
        ("avg_pool_3x3", 0), ("dil_conv_3x3", 1),
    ],
    "reduce": [
        ("sep_conv_5x5", 1), ("max_pool_3x3", 0),
        ("sep_conv_5x5", 1), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 2),
    ],
}
INCEPTION_LIKE = {
    "adjacency": [
        [0, 1, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    "operations": ["input", "conv1x1-bn-relu", *["conv3x3-bn-relu"] * 3, "maxpool3x3", "output"],
}
# fmt: on

PUBLISHED: dict[str, Published] = {
    **{name: Published({"space": "darts", **cells}, _SOURCES[name]) for name, cells in GENOTYPES.items()},
    "PDARTS": Published({"space": "darts", **PDARTS}, "found by progressive DARTS: Chen et al. 2019, https://arxiv.org/abs/1904.12760"),
    "PC_DARTS": Published(
        {"space": "darts", **PC_DARTS}, "found on CIFAR-10 by PC-DARTS: Xu et al. 2020, https://arxiv.org/abs/1907.05737"
    ),
    "inception-like": Published(
        {"space": "nasbench101", **INCEPTION_LIKE},
        "a cell like Inception's: Ying et al. 2019, https://arxiv.org/abs/1902.09635, in the README of their code",
    ),
}
