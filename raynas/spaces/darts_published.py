"""Cells of DARTS that were published, in the form of `DARTSSpace.from_genotype`.

Those of DARTS (first and second order) stand in https://github.com/quark0/darts (cnn/genotypes.py), those found by BANANAS and ASHA in
https://github.com/naszilla/darts (cnn/genotypes.py).
"""

from raynas.spaces.base import Published

# fmt: off
GENOTYPES: dict[str, dict[str, list[tuple[str, int]]]] = {
    "BANANAS": {
        "normal": [
            ("sep_conv_3x3", 1), ("skip_connect", 0),
            ("sep_conv_5x5", 2), ("sep_conv_5x5", 0),
            ("skip_connect", 0), ("sep_conv_5x5", 2),
            ("sep_conv_3x3", 0), ("skip_connect", 2),
        ],
        "reduce": [
            ("sep_conv_3x3", 1), ("max_pool_3x3", 0),
            ("max_pool_3x3", 0), ("none", 1),
            ("dil_conv_3x3", 2), ("sep_conv_5x5", 3),
            ("sep_conv_5x5", 4), ("sep_conv_3x3", 1),
        ],
    },
    "DARTS_V1": {
        "normal": [
            ("sep_conv_3x3", 1), ("sep_conv_3x3", 0),
            ("skip_connect", 0), ("sep_conv_3x3", 1),
            ("skip_connect", 0), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 0), ("skip_connect", 2),
        ],
        "reduce": [
            ("max_pool_3x3", 0), ("max_pool_3x3", 1),
            ("skip_connect", 2), ("max_pool_3x3", 0),
            ("max_pool_3x3", 0), ("skip_connect", 2),
            ("skip_connect", 2), ("avg_pool_3x3", 0),
        ],
    },
    "DARTS_V2": {
        "normal": [
            ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
            ("sep_conv_3x3", 1), ("skip_connect", 0),
            ("skip_connect", 0), ("dil_conv_3x3", 2),
        ],
        "reduce": [
            ("max_pool_3x3", 0), ("max_pool_3x3", 1),
            ("skip_connect", 2), ("max_pool_3x3", 1),
            ("max_pool_3x3", 0), ("skip_connect", 2),
            ("skip_connect", 2), ("max_pool_3x3", 1),
        ],
    },
    "ASHA200": {
        "normal": [
            ("skip_connect", 1), ("dil_conv_3x3", 0),
            ("sep_conv_3x3", 1), ("skip_connect", 0),
            ("none", 1), ("max_pool_3x3", 0),
            ("skip_connect", 1), ("dil_conv_3x3", 0),
        ],
        "reduce": [
            ("max_pool_3x3", 1), ("avg_pool_3x3", 0),
            ("sep_conv_5x5", 1), ("skip_connect", 2),
            ("max_pool_3x3", 3), ("none", 1),
            ("skip_connect", 0), ("sep_conv_5x5", 4),
        ],
    },
    "PDARTS": {
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
    },
    "PC_DARTS": {
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
    },
}
# fmt: on

_BANANAS = "White et al. 2021, https://arxiv.org/abs/1910.11858"
_DARTS = "Liu et al. 2019, https://arxiv.org/abs/1806.09055"
_SOURCES = {
    "BANANAS": f"found by BANANAS: {_BANANAS}",
    "DARTS_V1": f"found by first-order DARTS: {_DARTS}",
    "DARTS_V2": f"found by second-order DARTS: {_DARTS}",
    "ASHA200": f"found by ASHA in the experiments of {_BANANAS}",
    "PDARTS": "found by progressive DARTS: Chen et al. 2019, https://arxiv.org/abs/1904.12760",
    "PC_DARTS": "found on CIFAR-10 by PC-DARTS: Xu et al. 2020, https://arxiv.org/abs/1907.05737",
}

PUBLISHED = {name: Published({"space": "darts", **cells}, _SOURCES[name]) for name, cells in GENOTYPES.items()}
