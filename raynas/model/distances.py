"""How unlike architectures are: distances, for kernels. n, m: architectures, k: distances, A: variables of the adjacency encoding.

Each compares n architectures with m others. Those on graphs match the vertices of one graph with those of the other; what stays
unmatched costs, too. Masses are whole numbers, so the optimal transport between them is an assignment of units, which scipy solves.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.model.encodings import encode
from raynas.spaces.base import Graph, SearchSpace

Floats = NDArray[np.float64]
Distance = Callable[[SearchSpace, Sequence[Arch], Sequence[Arch]], Floats]  # (space, n archs, m archs) -> (k, n, m)

_END_MASS = 0.1  # of an input or an output, as a share of the mass between them (NASBOT, section 3)
STRUCTURAL = (0.1, 0.2, 0.4, 0.8)  # weights of the structural cost, one distance for each (NASBOT, appendix)


def adjacency(space: SearchSpace, archs: Sequence[Arch], others: Sequence[Arch]) -> Floats:
    """(1, n, m) how many variables of the adjacency encoding differ: the kernel of GP-BO in the comparison of BANANAS."""
    from scipy.spatial.distance import cdist

    left, right = ([space.adjacency(arch) for arch in some] for some in (archs, others))
    differ: Floats = len(left[0]) * cdist(left, right, "hamming")[None]
    return differ


def path(space: SearchSpace, archs: Sequence[Arch], others: Sequence[Arch]) -> Floats:
    """(1, n, m) how many paths only one of two architectures has."""
    from scipy.spatial.distance import cdist

    differ: Floats = cdist(encode("path", space, archs), encode("path", space, others), "cityblock")[None]
    return differ


def edit(space: SearchSpace, archs: Sequence[Arch], others: Sequence[Arch]) -> Floats:
    """(1, n, m) edits of a graph, each of a vertex, an edge or an operation, at least this many of which lead from one to the other.

    It is the lower bound of Riesen, Fischer and Bunke (2014), which an assignment of vertices finds: an edge counts half at each end.
    Two descriptions of the same graph have distance 0, unlike by `adjacency`.
    """

    from scipy.spatial.distance import cdist

    def cost(left: Units, right: Units) -> Floats:
        differ = left.labels[:, None] != right.labels
        changed: Floats = differ + cdist(left.places, right.places, "cityblock") / 2
        return changed[None]

    left, right = (_stacked([_degrees(space, arch) for arch in some]) for some in (archs, others))
    return _matched(left, right, cost)


def otmann(space: SearchSpace, archs: Sequence[Arch], others: Sequence[Arch]) -> Floats:
    """(8, n, m) OTMANN (Kandasamy et al. 2018, arXiv 1802.07191, section 3) for each weight in STRUCTURAL; then those over the masses.

    The least cost of moving the mass of one graph's vertices to the other's, where it goes to another operation (label mismatch), to
    another place (structure: shortest, longest and random-walk path lengths from the inputs and to the outputs), or nowhere, at 1 a unit.
    """
    from scipy.spatial.distance import cdist

    left, right = (_stacked([_transport_units(space, arch) for arch in some]) for some in (archs, others))
    mismatch = _mismatches(space.graph_operations)

    def cost(left: Units, right: Units) -> Floats:
        structure = cdist(left.places, right.places, "cityblock") / left.places.shape[1]
        moved: Floats = mismatch[left.labels[:, None], right.labels] + np.reshape(STRUCTURAL, (-1, 1, 1)) * structure
        return moved

    distances = _matched(left, right, cost)
    masses = np.diff(left.starts)[:, None] + np.diff(right.starts)
    return np.concatenate([distances, distances / masses])


DISTANCES: dict[str, Distance] = {"adjacency": adjacency, "path": path, "edit": edit, "otmann": otmann}


# -- matching --------------------------------------------------------------------------------------------------------------


class Units(NamedTuple):
    """What is matched, one unit of mass a row; of several graphs, one below the other. u: units, p: numbers."""

    labels: NDArray[np.int64]  # (u,) operations
    places: Floats  # (u, p) where in its graph it is
    single: Floats  # (u,) what it costs unmatched
    starts: NDArray[np.int64]  # (graphs + 1,) the first unit of each graph, and the end


def _stacked(graphs: Sequence[Units]) -> Units:
    starts = np.cumsum([0, *(len(graph.labels) for graph in graphs)])
    labels, places, single, _ = zip(*graphs, strict=True)
    return Units(np.concatenate(labels), np.concatenate(places), np.concatenate(single), starts)


def _matched(left: Units, right: Units, cost: Callable[[Units, Units], Floats]) -> Floats:
    """(k, n, m) least cost of matching units one to one, each pair at `cost` (k, u, v), and of leaving the others unmatched."""
    from scipy.optimize import linear_sum_assignment

    bounds = list(pairwise(right.starts.tolist()))
    totals = np.add.reduceat(right.single, right.starts[:-1])
    rows = []
    for start, end in pairwise(left.starts.tolist()):
        one = Units(left.labels[start:end], left.places[start:end], left.single[start:end], left.starts[:2])
        gains = np.minimum(cost(one, right) - one.single[:, None] - right.single, 0.0)  # of a pair over none
        blocks = [[some[:, first:last] for first, last in bounds] for some in gains]
        gained = np.array([[block[linear_sum_assignment(block)].sum() for block in row] for row in blocks])  # (k, m)
        rows.append(gained + one.single.sum() + totals)
    distances: Floats = np.maximum(np.stack(rows, axis=1), 0.0)  # what is the same differs by rounding
    return distances


@lru_cache(maxsize=50_000)
def _degrees(space: SearchSpace, arch: Arch) -> Units:
    """Vertices, placed by their numbers of incoming and outgoing edges."""
    graph = space.graph(arch)
    degrees = np.stack([graph.adjacency.sum(axis=0), graph.adjacency.sum(axis=1)], axis=1).astype(np.float64)
    return Units(graph.operations, degrees, 1 + degrees.sum(axis=1) / 2, np.zeros(2, dtype=np.int64))


@lru_cache(maxsize=50_000)
def _transport_units(space: SearchSpace, arch: Arch) -> Units:
    """Vertices by their mass: the units that they read times their own, where each has one; inputs and outputs a share of all."""
    graph = space.graph(arch)
    inner = (graph.adjacency.sum(axis=0) > 0) & (graph.adjacency.sum(axis=1) > 0)
    incoming = np.where(inner, graph.adjacency.sum(axis=0), 0)
    masses = np.where(inner, incoming, max(1, round(_END_MASS * incoming.sum())))
    backward = Graph(graph.adjacency[::-1, ::-1].T, graph.operations[::-1])
    places = np.concatenate([_path_lengths(graph), _path_lengths(backward)[::-1]], axis=1).repeat(masses, axis=0)
    return Units(graph.operations.repeat(masses), places, np.ones(len(places)), np.zeros(2, dtype=np.int64))


def _path_lengths(graph: Graph) -> Floats:
    """(V, 3) shortest, longest and expected random-walk length of the paths from the inputs to each vertex."""
    lengths = np.zeros((len(graph.operations), 3))
    for vertex, column in enumerate(graph.adjacency.T):  # topological order
        if column.any():
            before = lengths[column > 0]
            lengths[vertex] = 1 + np.array([before[:, 0].min(), before[:, 1].max(), before[:, 2].mean()])
    return lengths


@lru_cache(maxsize=8)
def _mismatches(operations: tuple[str, ...]) -> Floats:
    """(operations, operations) what it costs to take one for another; infinity where they have nothing in common.

    Two convolutions differ by sqrt(2)/10 times the root of the difference of their sizes, two ways of pooling by 0.5, as in NASBOT's
    reference code (where convolutions differ by size only: those of one size and another kind cost here as a step of one). Values of one
    choice, as in `kernel=3` and `kernel=5`, are to each other as ways of pooling are.
    """
    costs = np.full((len(operations), len(operations)), np.inf)
    kinds = [_kind(operation) for operation in operations]
    for i, (kind, size) in enumerate(kinds):
        for j, (other, other_size) in enumerate(kinds):
            if kind == other:
                costs[i, j] = np.sqrt(2 * max(1, abs(size - other_size))) / 10 if kind == "conv" else 0.5
    np.fill_diagonal(costs, 0.0)
    return costs


def _kind(operation: str) -> tuple[str, int]:
    """("conv", 3) of `sep_conv_3x3`; what has no size has 0."""
    if "=" in operation:
        return operation.partition("=")[0], 0
    kind = next((kind for kind in ("conv", "pool") if kind in operation), operation)
    size = re.search(r"(\d+)x\d+", operation)
    return kind, int(size[1]) if size else 0
