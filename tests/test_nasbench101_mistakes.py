"""What is no cell of NAS-Bench-101, and the forms in which one may be given."""

from typing import Any

import numpy as np
import pytest
from test_nasbench101 import C3, MP, SPACE, cell, matrix_of

from raynas.errors import OutOfSpaceError, UnknownNameError
from raynas.spaces.nasbench101 import NASBench101Space

CHAIN = [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
CHAIN_OPS = ["input", C3, "output"]
FULL_OPS = ["input", *[C3] * 5, "output"]


@pytest.mark.parametrize(
    ("matrix", "ops", "message"),
    [
        ([[0, 1, 0], [0, 0, 1]], CHAIN_OPS, "square"),
        ([[0, 1], [0, 0, 1], [0, 0, 0]], CHAIN_OPS, "square"),
        (CHAIN, ["input", "output"], "square"),
        ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], CHAIN_OPS, "upper triangular"),
        ([[1, 1, 0], [0, 0, 1], [0, 0, 0]], CHAIN_OPS, "upper triangular"),
        ([[0, 2, 0], [0, 0, 1], [0, 0, 0]], CHAIN_OPS, "0 and 1 only, not 2"),
        ([[0, "1", 0], [0, 0, 1], [0, 0, 0]], CHAIN_OPS, "0 and 1 only, not '1'"),
        (CHAIN, ["input", "conv3x3", "output"], "unknown operation 'conv3x3'.*conv3x3-bn-relu"),
        (CHAIN, [C3, C3, "output"], "start with 'input'"),
        (CHAIN, ["input", C3, C3], "end with 'output'"),
        ([], [], "start with 'input'"),
        ([[0, 1, 0], [0, 0, 0], [0, 0, 0]], CHAIN_OPS, "no path"),
        (np.triu(np.ones((7, 7), dtype=int), 1), FULL_OPS, "7 vertices and 21 edges.*at most 7 vertices and 9 edges"),
        (np.eye(8, k=1, dtype=int), ["input", *[C3] * 6, "output"], "8 vertices and 7 edges"),
        (None, None, "needs a matrix"),
        ([0, 1], ["input", "output"], "needs a matrix"),
    ],
)
def test_what_is_not_a_cell(matrix: Any, ops: Any, message: str) -> None:
    with pytest.raises(OutOfSpaceError, match=message) as caught:
        SPACE.make(matrix, ops)
    assert "\n" not in str(caught.value)


def test_forms_of_input() -> None:
    arch = cell("01 12", C3)
    assert SPACE.make(np.array(CHAIN, dtype=np.int8), np.array(CHAIN_OPS)) == arch
    assert SPACE.make(tuple(map(tuple, CHAIN)), tuple(CHAIN_OPS)).spec == arch.spec
    unpruned = SPACE.make(matrix_of("01 02 13", 4), ["input", C3, MP, "output"])
    assert unpruned.spec == arch.spec
    assert SPACE.from_strings("010001000", f"input,{C3},output").spec == arch.spec
    assert all(type(value) is int for row in SPACE.make(np.array(CHAIN), CHAIN_OPS)["adjacency"] for value in row)


@pytest.mark.parametrize("adjacency", ["01000100", "010002000", ""])
def test_strings_that_are_no_matrix(adjacency: str) -> None:
    with pytest.raises(OutOfSpaceError, match="9 characters 0 or 1"):
        SPACE.from_strings(adjacency, f"input,{C3},output")


def test_configs_of_no_cell() -> None:
    with pytest.raises(OutOfSpaceError, match="'adjacency' and 'operations'"):
        SPACE.from_config({"operations": CHAIN_OPS})
    with pytest.raises(OutOfSpaceError, match="nasbench101"):
        SPACE.from_config({"space": "darts", "adjacency": CHAIN, "operations": CHAIN_OPS})


def test_unknown_sampler() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown sampler 'unifrom'; did you mean 'uniform'\?"):
        NASBench101Space("unifrom")
