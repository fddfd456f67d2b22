"""Graphs of architectures, many at a time, and what can be counted on them.

n: architectures, V: vertices of the largest, O: operations a vertex may be, S: subsets of operations, d: features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.spaces.base import SearchSpace

Array = NDArray[np.float32]
Bools = NDArray[np.bool_]

_COUNTED = 20  # operations up to which the positions of vertices count each of them: more make the features many and each of them rare
_ALL_SUBSETS, _PAIRS = 5, 10  # inner operations up to which all subsets, or pairs, have features of their own
_SAMPLE = 200  # random architectures that show which operations are inside


@dataclass(frozen=True)
class Graphs:
    """Directed acyclic graphs whose vertices are in topological order, the smaller ones padded with vertices that have no edge."""

    edges: Bools  # (n, V, V)
    operations: NDArray[np.int64]  # (n, V), -1: padding

    @property
    def real(self) -> Bools:
        """(n, V) vertices that are no padding."""
        return self.operations >= 0

    @property
    def sources(self) -> Bools:
        """(n, V) vertices without predecessors."""
        return self.real & ~self.edges.any(axis=1)

    @property
    def sinks(self) -> Bools:
        """(n, V) vertices without successors."""
        return self.real & ~self.edges.any(axis=2)

    def backwards(self) -> "Graphs":
        """Every edge turned round."""
        return Graphs(self.edges.transpose(0, 2, 1)[:, ::-1, ::-1], self.operations[:, ::-1])

    def along(self, weights: Array, *, most: bool) -> Array:
        """(n, V, k) the greatest, or least, sum of weights (n, V, k) on a path from a source to each vertex, both included."""
        worst, choose = (-np.inf, np.max) if most else (np.inf, np.min)
        sums = weights.astype(np.float32)
        for v in range(1, sums.shape[1]):
            before = self.edges[:, :v, v, None]
            reached = choose(np.where(before, sums[:, :v], np.float32(worst)), axis=1)
            sums[:, v] += np.where(before.any(axis=1), reached, np.float32(0))
        return sums

    def paths(self, starts: Bools) -> Array:
        """(n, V) paths from one of the vertices `starts` (n, V) to each."""
        counts = starts.astype(np.float32)
        for v in range(1, counts.shape[1]):
            counts[:, v] += (counts[:, :v] * self.edges[:, :v, v]).sum(axis=1)
        return counts

    def within(self, kept: Bools) -> "Graphs":
        """Only the vertices `kept` (n, V) have edges, between each other."""
        return Graphs(self.edges & kept[:, :, None] & kept[:, None, :], self.operations)


def graphs(space: SearchSpace, archs: Sequence[Arch]) -> Graphs:
    """The graphs of n architectures.

    Raises:
        OutOfSpaceError: the space does not say how its architectures are graphs, or its graphs are not as raynas.spaces.Graph says.
    """
    each = [space.graph(arch) for arch in archs]
    most = max((len(graph.operations) for graph in each), default=0)
    edges, operations = np.zeros((len(each), most, most), dtype=np.bool_), np.full((len(each), most), -1, dtype=np.int64)
    for i, graph in enumerate(each):
        size = len(graph.operations)
        edges[i, :size, :size], operations[i, :size] = graph.adjacency, graph.operations
    if np.tril(edges).any() or operations.max(initial=-1) >= len(space.graph_operations):
        raise OutOfSpaceError(
            f"space {space.name!r}: the adjacency of a graph must be upper triangular, with zeros on its diagonal, and its operations "
            f"indices of the {len(space.graph_operations)} graph_operations"
        )
    return Graphs(edges, operations)


def positions(batch: Graphs, kinds: int) -> Array:
    """(n, V, d) where in its graph a vertex is.

    Degrees, share of all paths that lead through it, and of the paths from a source to it and from it to a sink the number (as a
    logarithm), the most and the fewest vertices, and the most and the fewest of each of the O = `kinds` operations, if these are few.
    """
    real = batch.real[:, :, None]
    weights = [real.astype(np.float32)]
    if kinds <= _COUNTED:
        weights.append((batch.operations[:, :, None] == np.arange(kinds)).astype(np.float32))
    weight, back = np.concatenate(weights, axis=2), batch.backwards()
    before, after = batch.paths(batch.sources), back.paths(back.sources)[:, ::-1]
    total = (before * batch.sinks).sum(axis=1, keepdims=True)
    parts = [batch.edges.sum(axis=1), batch.edges.sum(axis=2), np.log1p(before), np.log1p(after), before * after / np.maximum(total, 1)]
    features = [np.stack(parts, axis=2)]
    for most in (True, False):
        features += [batch.along(weight, most=most), back.along(weight[:, ::-1], most=most)[:, ::-1]]
    return (np.concatenate(features, axis=2) * real).astype(np.float32)


def graph_counts(space: SearchSpace, archs: Sequence[Arch], cutoff: int | None = None) -> Array:
    """(n, d): GRAF (Kadlecová et al., ICML 2024, arXiv 2404.16551), with the numbers of paths and of operations on a path besides.

    For each subset of operations, of the graph of those vertices, sources and sinks: the fewest and the most vertices on a path from a
    source to a sink (0: there is none), the number of paths (as a logarithm), edges, degrees of sources and sinks, the greatest
    degrees inside. On the whole graph: how many of the subset there are, the most and the fewest of it on a path; degrees of each
    operation. All subsets of up to five operations; of more, the small ones and all together.
    """
    batch, inner = graphs(space, archs), _inner(space)
    ends = batch.sources | batch.sinks
    columns: list[NDArray[np.floating]] = []
    for subset in _subsets(inner):
        chosen = np.isin(batch.operations, subset) & ~ends
        columns += _of_part(batch.within(chosen | ends), batch, chosen)
        if subset:
            weights = chosen[:, :, None].astype(np.float32)
            columns.append(chosen.sum(axis=1))
            for most in (True, False):
                columns.append(_at(batch.along(weights, most=most)[:, :, 0], batch.sinks, most=most))
        if len(subset) == 1:
            columns += [(batch.edges.sum(axis=axis) * chosen).sum(axis=1) for axis in (1, 2)]
    return np.stack(columns, axis=1).astype(np.float32)


def _of_part(part: Graphs, whole: Graphs, chosen: Bools) -> list[NDArray[np.floating]]:
    """(n,) each: what a graph has that is a part of another one, which has the same sources and sinks."""
    starts, stops = whole.sources, whole.sinks
    far = np.float32(part.edges.shape[1] + 1)
    lengths = []
    for most in (False, True):
        start = np.where(starts, np.float32(1), -far if most else far)  # a vertex that no source reaches is on no path
        reached = part.along(np.where(starts | ~part.edges.any(axis=1), start, np.float32(1))[:, :, None], most=most)[:, :, 0]
        length = _at(reached, stops, most=most)
        lengths.append(np.where((length <= 0) | (length >= far), 0, length))
    into, out = part.edges.sum(axis=1), part.edges.sum(axis=2)
    degrees = [(out * starts).sum(axis=1), (into * stops).sum(axis=1), (into * chosen).max(axis=1), (out * chosen).max(axis=1)]
    return [*lengths, np.log1p((part.paths(starts) * stops).sum(axis=1)), part.edges.sum(axis=(1, 2)), *degrees]


def _at(values: Array, where: Bools, *, most: bool) -> Array:
    """(n,) the greatest, or least, of values (n, V) `where` they count."""
    found: Array = np.where(where, values, -np.inf).max(axis=1) if most else np.where(where, values, np.inf).min(axis=1)
    return found


@lru_cache(maxsize=32)
def _inner(space: SearchSpace) -> tuple[int, ...]:
    """Operations of vertices between sources and sinks, as random architectures have them."""
    rng = np.random.default_rng(0)
    batch = graphs(space, [space.sample(rng) for _ in range(_SAMPLE)])
    return tuple(np.unique(batch.operations[batch.real & ~batch.sources & ~batch.sinks]).tolist())


def _subsets(inner: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    largest = len(inner) if len(inner) <= _ALL_SUBSETS else 2 if len(inner) <= _PAIRS else 1
    for size in range(largest + 1):
        yield from combinations(inner, size)
    if largest < len(inner):
        yield inner
