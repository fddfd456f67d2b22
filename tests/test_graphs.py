"""Batches of graphs against enumerating every path of each graph by hand. V: vertices, O: operations."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph import DARTS, NB101, NB201, walks
from toy_space import PlainSpace, ToySpace

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.model.graphs import Graphs, graph_counts, graphs, positions
from raynas.spaces import Graph, SearchSpace


class DagSpace(ToySpace):
    """Any graph of one to six vertices, with vertices that no path from a source to a sink of the subset reaches, and lone ones."""

    graph_operations = ("w", "x", "y", "z")

    def sample(self, rng: np.random.Generator) -> Arch:
        size = int(rng.integers(1, 7))
        edges = np.triu(rng.random((size, size)) < rng.choice([0.2, 0.5, 0.9]), 1)
        return Arch.make("dag", str(rng.integers(2**60)), edges=edges.astype(int).tolist(), operations=rng.integers(4, size=size).tolist())

    def graph(self, arch: Arch) -> Graph:
        return Graph(np.array(arch["edges"]), np.array(arch["operations"]))


DAGS = DagSpace()
SPACES: list[SearchSpace] = [DAGS, NB101, NB201, DARTS]
each_space = pytest.mark.parametrize("space", SPACES, ids=lambda space: "dags" if space is DAGS else str(space.name))
seeds = given(seed=st.integers(0, 2**32 - 1))
few = settings(max_examples=20, deadline=None)


def some(space: SearchSpace, seed: int, count: int = 5) -> list[Arch]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def arriving(edges: Any, starts: list[int]) -> Iterator[list[int]]:
    """The vertices of every path from one of `starts` to anywhere."""
    ongoing = [[v] for v in starts]
    while ongoing:
        path = ongoing.pop()
        yield path
        ongoing += [[*path, int(w)] for w in np.flatnonzero(edges[path[-1]])]


def with_others(space: SearchSpace, archs: list[Arch], compute: Callable[[list[Arch]], Any]) -> None:
    """What is computed of one alone is what is computed of it in a batch with larger ones; what is beyond is 0."""
    together = compute(archs)
    for arch, found in zip(archs, together, strict=True):
        alone = compute([arch])[0]
        size = len(space.graph(arch).operations) if alone.ndim > 1 else len(alone)
        np.testing.assert_allclose(found[:size], alone[:size], rtol=1e-6)
        assert not found[size:].any()


@each_space
@seeds
@few
def test_sums_and_numbers_of_paths_against_enumeration(space: SearchSpace, seed: int) -> None:
    archs, rng = some(space, seed), np.random.default_rng(seed)
    batch = graphs(space, archs)
    weights = rng.integers(-3, 4, size=(*batch.operations.shape, 2)).astype(np.float32)
    starts = batch.real & (rng.random(batch.real.shape) < 0.5)
    most, least, paths = batch.along(weights, most=True), batch.along(weights, most=False), batch.paths(starts)
    for i, arch in enumerate(archs):
        edges = space.graph(arch).adjacency
        sources = np.flatnonzero(~edges.any(axis=0)).tolist()
        assert np.flatnonzero(batch.sources[i]).tolist() == sources
        assert np.flatnonzero(batch.sinks[i]).tolist() == np.flatnonzero(~edges.any(axis=1)).tolist()
        found = list(arriving(edges, sources))
        chosen = [path[-1] for path in arriving(edges, np.flatnonzero(starts[i]).tolist())]
        for v in range(len(edges)):
            sums = [weights[i, path].sum(axis=0) for path in found if path[-1] == v]
            np.testing.assert_array_equal(most[i, v], np.max(sums, axis=0))
            np.testing.assert_array_equal(least[i, v], np.min(sums, axis=0))
            assert paths[i, v] == chosen.count(v)


@each_space
@seeds
@few
def test_edges_within_and_backwards(space: SearchSpace, seed: int) -> None:
    batch = graphs(space, some(space, seed))
    kept = np.random.default_rng(seed).random(batch.real.shape) < 0.6
    for i, edges in enumerate(batch.within(kept).edges):
        expected = {(v, w) for v, w in np.argwhere(batch.edges[i]).tolist() if kept[i, v] and kept[i, w]}
        assert set(map(tuple, np.argwhere(edges).tolist())) == expected
    back, last = batch.backwards(), batch.operations.shape[1] - 1
    assert {(i, last - w, last - v) for i, v, w in np.argwhere(back.edges).tolist()} == set(map(tuple, np.argwhere(batch.edges).tolist()))
    np.testing.assert_array_equal(back.sinks[:, ::-1], batch.sources)
    np.testing.assert_array_equal(back.backwards().operations, batch.operations)


def place(graph: Graph, v: int, kinds: int) -> list[float]:
    """The features of `positions` for a vertex, from all paths that lead through it."""
    paths = list(walks(graph))
    through = [(path[: path.index(v) + 1], path[path.index(v) :]) for path in paths if v in path]
    numbers = [len(set(map(tuple, part))) for part in zip(*through, strict=True)]
    features = [graph.adjacency[:, v].sum(), graph.adjacency[v].sum(), *np.log1p(numbers), len(through) / len(paths)]
    for choose in (max, min):
        for side in (0, 1):
            parts = [parts[side] for parts in through]
            features.append(choose(map(len, parts)))
            features += [choose((graph.operations[part] == operation).sum() for part in parts) for operation in range(kinds)]
    return features


@each_space
@seeds
@few
def test_positions_against_enumeration(space: SearchSpace, seed: int) -> None:
    archs, kinds = some(space, seed), len(space.graph_operations)
    found = positions(graphs(space, archs), kinds)
    for i, arch in enumerate(archs):
        graph = space.graph(arch)
        for v in range(len(graph.operations)):
            np.testing.assert_allclose(found[i, v], place(graph, v, kinds), rtol=1e-6)
    with_others(space, archs, lambda some: positions(graphs(space, some), kinds))


def test_positions_of_many_operations_count_vertices_alone() -> None:
    batch = graphs(DAGS, some(DAGS, 0))
    np.testing.assert_array_equal(positions(batch, 21), positions(batch, 4)[:, :, [0, 1, 2, 3, 4, 5, 10, 15, 20]])


def counted(graph: Graph, inner: list[int]) -> list[float]:
    """The features of `graph_counts` from all paths."""
    edges, paths = graph.adjacency, list(walks(graph))
    sources, sinks = (set(np.flatnonzero(~edges.any(axis=axis)).tolist()) for axis in (0, 1))
    every = range(len(inner) + 1) if len(inner) <= 5 else (0, 1, 2, len(inner))
    features: list[float] = []
    for subset in (subset for size in every for subset in combinations(inner, size)):
        chosen = {v for v, operation in enumerate(graph.operations) if operation in subset} - sources - sinks
        kept = [(v, w) for v, w in np.argwhere(edges).tolist() if {v, w} <= chosen | sources | sinks]
        inside = [len(path) for path in paths if set(path) <= chosen | sources | sinks]
        features += [min(inside, default=0), max(inside, default=0), np.log1p(len(inside)), len(kept)]
        features += [sum(v in sources for v, _ in kept), sum(w in sinks for _, w in kept)]
        features += [max((sum(edge[end] == v for edge in kept) for v in chosen), default=0) for end in (1, 0)]
        if subset:
            on_paths = [len(chosen & set(path)) for path in paths]
            features += [len(chosen), max(on_paths), min(on_paths)]
        if len(subset) == 1:
            features += [sum(edges.sum(axis=axis)[v] for v in chosen) for axis in (0, 1)]
    return features


@each_space
@seeds
@few
def test_graph_counts_against_enumeration(space: SearchSpace, seed: int) -> None:
    archs, inner = some(space, seed), set[int]()
    for arch in some(space, 5, 400):
        edges, operations = space.graph(arch)
        inner |= set(operations[edges.any(axis=0) & edges.any(axis=1)].tolist())
    expected = [counted(space.graph(arch), sorted(inner)) for arch in archs]
    np.testing.assert_allclose(graph_counts(space, archs), expected, rtol=1e-6)
    with_others(space, archs, lambda some: graph_counts(space, some))


def relabelled(arch: Arch, rng: np.random.Generator) -> Arch:
    """The same cell of NAS-Bench-101, described with its vertices in another order."""
    matrix, operations = np.array(arch.to_config()["adjacency"]), np.array(arch["operations"])
    order: list[int] = []
    while len(order) < len(matrix):
        ready = [v for v in range(len(matrix)) if v not in order and set(np.flatnonzero(matrix[:, v])) <= set(order)]
        order.append(int(rng.choice(ready)))
    return NB101.make(matrix[np.ix_(order, order)], operations[order].tolist())


@seeds
@few
def test_isomorphic_cells_have_equal_counts(seed: int) -> None:
    archs, rng = some(NB101, seed), np.random.default_rng(seed)
    np.testing.assert_array_equal(graph_counts(NB101, archs), graph_counts(NB101, [relabelled(arch, rng) for arch in archs]))


def test_the_counts_of_a_cell_worked_out() -> None:
    """input -> 3x3 -> 1x1 -> output, input -> 1x1' -> output, input -> output."""
    matrix = np.zeros((5, 5), dtype=int)
    for edge in [(0, 1), (1, 2), (2, 4), (0, 3), (3, 4), (0, 4)]:
        matrix[edge] = 1
    cell = NB101.make(matrix, ["input", "conv3x3-bn-relu", "conv1x1-bn-relu", "conv1x1-bn-relu", "output"])
    counts = graph_counts(NB101, [cell])[0]
    nothing, only_3x3, only_1x1, pool = counts[:8], counts[8:21], counts[21:34], counts[34:47]
    np.testing.assert_allclose(nothing, [2, 2, np.log(2), 1, 1, 1, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(only_3x3, [2, 2, np.log(2), 2, 2, 1, 1, 0, 1, 1, 0, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(only_1x1, [2, 3, np.log(3), 4, 2, 3, 1, 1, 2, 1, 0, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(pool, [*nothing, 0, 0, 0, 0, 0], rtol=1e-6)


def test_no_architecture_is_an_empty_batch() -> None:
    batch: Graphs = graphs(NB201, [])
    assert batch.edges.shape == (0, 0, 0)
    assert positions(batch, 4).shape[:2] == (0, 0)


def turned(graph: Graph) -> Graph:
    return Graph(graph.adjacency.T, graph.operations)


def unnamed(graph: Graph) -> Graph:
    return Graph(graph.adjacency, graph.operations + 1)


@pytest.mark.parametrize("change", [turned, unnamed])
def test_graphs_that_are_not_as_they_should_be_are_refused(change: Callable[[Graph], Graph]) -> None:
    class Wrong(ToySpace):
        def graph(self, arch: Arch) -> Graph:
            return change(super().graph(arch))

    with pytest.raises(OutOfSpaceError, match=r"must be upper triangular.* and its operations indices of the 14 graph_operations"):
        graphs(Wrong(2), [ToySpace(2).make("aa")])


def test_a_space_without_graphs_says_so() -> None:
    with pytest.raises(OutOfSpaceError, match="does not say how its architectures are graphs"):
        graph_counts(PlainSpace(2), [ToySpace(2).make("aa")])
