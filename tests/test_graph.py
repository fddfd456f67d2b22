"""Architectures as graphs and as pictures. V: vertices."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from raynas.errors import OutOfSpaceError
from raynas.spaces import Graph, SearchSpace, published
from raynas.spaces.darts import GENOTYPES, OPS, DARTSSpace
from raynas.spaces.nasbench101 import NASBench101Space
from raynas.spaces.nasbench201 import NASBench201Space

NB101, NB201, DARTS = NASBench101Space(), NASBench201Space(), DARTSSpace(with_none=True)
SPACES: list[SearchSpace] = [NB101, NB201, DARTS]


def walks(graph: Graph) -> Iterator[list[int]]:
    """The vertices of every path from a vertex that nothing feeds to one that feeds nothing."""
    ongoing = [[int(v)] for v in np.flatnonzero(graph.adjacency.sum(axis=0) == 0)]
    while ongoing:
        path = ongoing.pop()
        ahead = np.flatnonzero(graph.adjacency[path[-1]]).tolist()
        if not ahead:
            yield path
        ongoing += [[*path, w] for w in ahead]


def index(space: SearchSpace, names: list[str]) -> int:
    """The index in `paths` of a path of these vertices, by the documentation of each space."""
    inner = names[1:-1]
    if space is NB101:
        codes = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
        return sum(3**i * (codes.index(op) + 1) for i, op in enumerate(inner))
    if space is NB201:
        ops = ("avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3", "none", "skip_connect")
        return {1: 0, 2: 5, 3: 30}[len(inner)] + sum(5**i * ops.index(op) for i, op in enumerate(inner))
    block = ["input_before", "input", "reduce_input_before", "reduce_input"].index(names[0])
    assert names[-1] == ("output" if block < 2 else "reduce_output")
    return 4681 * block + sum(8**i * (OPS.index(op) + 1) for i, op in enumerate(inner))


@pytest.mark.parametrize("space", SPACES, ids=lambda space: str(space.name))
def test_the_paths_of_the_graph_are_those_of_the_space(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        arch = space.sample(rng)
        graph = space.graph(arch)
        names = [space.graph_operations[operation] for operation in graph.operations]
        assert Counter(index(space, [names[v] for v in path]) for path in walks(graph)) == Counter(space.paths(arch))


@pytest.mark.parametrize("space", SPACES, ids=lambda space: str(space.name))
def test_sizes_and_types(space: SearchSpace) -> None:
    rng = np.random.default_rng(1)
    vertices = {NB101: range(2, 8), NB201: [8], DARTS: [22]}[space]
    assert len(set(space.graph_operations)) == len(space.graph_operations)
    assert {"input", "output"} <= set(space.graph_operations)
    for _ in range(100):
        adjacency, operations = space.graph(space.sample(rng))
        size = len(operations)
        assert size in vertices
        assert adjacency.shape == (size, size)
        assert adjacency.dtype == operations.dtype == np.int64
        assert set(np.unique(adjacency)) <= {0, 1}
        assert not np.tril(adjacency).any()
        assert ((operations >= 0) & (operations < len(space.graph_operations))).all()
        assert (adjacency.any(axis=0) | adjacency.any(axis=1)).all()


def test_a_graph_may_be_changed_without_harm() -> None:
    for space in SPACES:
        arch = space.sample(np.random.default_rng(0))
        space.graph(arch).adjacency[:] = 7
        assert space.graph(arch).adjacency.max() == 1


def edges(graph: Graph) -> set[tuple[int, int]]:
    return {(int(v), int(w)) for v, w in np.argwhere(graph.adjacency)}


def test_a_cell_of_nasbench101_is_its_graph() -> None:
    arch = NB101.from_config(published()["inception-like"].config)
    graph = NB101.graph(arch)
    assert graph.adjacency.tolist() == arch.to_config()["adjacency"]
    assert [NB101.graph_operations[operation] for operation in graph.operations] == list(arch["operations"])


def test_a_cell_of_nasbench201_is_a_line_graph() -> None:
    graph = NB201.graph(NB201.make(["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none"]))
    names = [NB201.graph_operations[operation] for operation in graph.operations]
    assert names == ["input", "none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none", "output"]
    assert edges(graph) == {(0, 1), (0, 2), (0, 4), (1, 3), (1, 5), (2, 6), (3, 6), (4, 7), (5, 7), (6, 7)}


def test_cells_of_darts_side_by_side() -> None:
    graph = DARTS.graph(DARTS.from_genotype(**GENOTYPES["DARTS_V2"]))
    names = [DARTS.graph_operations[operation] for operation in graph.operations]
    assert names[:2] + names[10:13] == ["input_before", "input", "output", "reduce_input_before", "reduce_input"]
    assert names[2:10] == [op for op, _ in GENOTYPES["DARTS_V2"]["normal"]]
    assert names[13:21] == [op for op, _ in GENOTYPES["DARTS_V2"]["reduce"]]
    assert not graph.adjacency[:11, 11:].any()
    normal = {(v, w) for v, w in edges(graph) if w < 10}
    assert normal == {(0, 2), (1, 3), (0, 4), (1, 5), (1, 6), (0, 7), (0, 8), (2, 9), (3, 9)}
    reduce = {(v - 11, w - 11) for v, w in edges(graph) if 11 <= w < 21}
    assert reduce == {(0, 2), (1, 3), (2, 4), (3, 4), (1, 5), (0, 6), (2, 7), (3, 7), (2, 8), (3, 8), (1, 9)}
    assert {(v, w) for v, w in edges(graph) if w in (10, 21)} == {(v, 10) for v in range(2, 10)} | {(v, 21) for v in range(13, 21)}


def test_a_space_without_graphs_says_so() -> None:
    with pytest.raises(OutOfSpaceError, match="does not say how its architectures are graphs"):
        SearchSpace.graph(NB201, NB201.make(["none"] * 6))
