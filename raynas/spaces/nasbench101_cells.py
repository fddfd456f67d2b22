"""The cells of NAS-Bench-101 as numbers: the published description of any cell, and all cells, each once, without a table.

Letters: V vertices, E = V (V - 1) / 2 possible edges, k = V - 2 interior vertices, N graphs, P = k! permutations of the interior.

A cell is three numbers: V, an edge code (bit i: the i-th of the possible edges 0-1, 0-2, 1-2, 0-3, ...) and an operation code (base
3, the first interior vertex most significant). Of all descriptions of a cell the published table has the one with the least edge
code and among these the least operation code. So has raynas: the channels of a vertex, and with them the cost of a cell, depend
on the order of the vertices, as the first vertices that feed the output take the remainder of its channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raynas.spaces.nasbench101_graph import MAX_EDGES, MAX_VERTICES, NUM_OPS, unpack_ops

Ints = NDArray[np.int64]


class Moves(NamedTuple):
    """The permutations of the interior of a graph. Products with these arrays are the codes of all its images, (P,)."""

    edges: Ints  # (E, P) power of two of the place to which each edge moves; more than any code where that is below the diagonal
    ops: Ints  # (k, P) power of three of the place to which each interior vertex moves


@lru_cache(maxsize=MAX_VERTICES)
def moves(vertices: int) -> Moves:
    """The moves of graphs with so many vertices."""
    k = vertices - 2
    edges = [(v, w) for w in range(vertices) for v in range(w)]
    place = {edge: 1 << i for i, edge in enumerate(edges)}
    orders = [(0, *p, vertices - 1) for p in permutations(range(1, vertices - 1))]
    edge_weights = np.array([[place.get((p[v], p[w]), 1 << len(edges)) for p in orders] for v, w in edges], dtype=np.int64)
    op_weights = np.array([[NUM_OPS ** (k - p[v]) for p in orders] for v in range(1, k + 1)], dtype=np.int64)
    return Moves(edge_weights, op_weights.reshape(k, len(orders)))


def canonical(vertices: int, edges: Sequence[int], ops: Sequence[int]) -> tuple[int, int, int]:
    """The three numbers of a pruned cell.

    Args:
        edges: positions of its edges among the possible ones, w (w - 1) / 2 + v for v -> w.
        ops: (k,) operation codes.
    """
    edge_weights, op_weights = moves(vertices)
    images = edge_weights[edges].sum(axis=0)
    code = images.min()
    labels = np.array(ops, dtype=np.int64) @ op_weights[:, images == code]
    return vertices, int(code), int(labels.min())


@dataclass(frozen=True)
class AllCells:
    """The cells in a fixed order. A class is one unlabelled graph, with input and output fixed, up to isomorphism."""

    graphs: list[tuple[int, int]]  # (V, edge code) of each class
    starts: Ints  # (classes + 1,) number of cells before each class
    labels: list[Ints]  # of each class: the operation codes of its cells

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        """The three numbers of one cell, 0 <= index < len(self)."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return *self.graphs[number], int(self.labels[number][index - self.starts[number]])


def _connected_graphs(vertices: int) -> tuple[Ints, Ints]:
    """Edge codes (N,) and bits (N, E) of all graphs of at most MAX_EDGES edges in which every vertex is on a path from input to output.

    As edges only go up, this holds as soon as every vertex but the output has a successor and every one but the input a predecessor.
    """
    edges = [(v, w) for w in range(vertices) for v in range(w)]
    codes = np.arange(1 << len(edges), dtype=np.int64)
    for v in range(vertices - 1):
        leaving = sum(1 << i for i, (a, _) in enumerate(edges) if a == v)
        entering = sum(1 << i for i, (_, b) in enumerate(edges) if b == v + 1)
        codes = codes[(codes & leaving != 0) & (codes & entering != 0)]
    bits = codes[:, None] >> np.arange(len(edges)) & 1
    few = bits.sum(axis=1) <= MAX_EDGES
    return codes[few], bits[few]


@lru_cache(maxsize=1)
def all_cells() -> AllCells:
    """All cells, small ones first (0.15 s for the first call of a process).

    A class is represented by the graph that no permutation gives a lower code. The permutations that keep this code are its
    symmetries; operations which they exchange make the same cell, which counts once, by the least operation code.
    """
    graphs: list[tuple[int, int]] = []
    labels: list[Ints] = []
    for vertices in range(2, MAX_VERTICES + 1):
        edge_weights, op_weights = moves(vertices)
        codes, bits = _connected_graphs(vertices)
        images = bits.astype(np.float64) @ edge_weights  # (N, P), exact; floats for the fast product
        own = np.arange(NUM_OPS ** (vertices - 2))
        digits = np.array([unpack_ops(label, vertices - 2) for label in own.tolist()], dtype=np.int64)  # (3^k, k)
        distinct: dict[bytes, Ints] = {}  # most classes share their symmetries with others
        for i in np.flatnonzero(images.min(axis=1) == codes):
            symmetries = images[i] == codes[i]
            key = symmetries.tobytes()
            if key not in distinct:
                distinct[key] = np.flatnonzero((digits @ op_weights[:, symmetries]).min(axis=1) == own)
            graphs.append((vertices, int(codes[i])))
            labels.append(distinct[key])
    return AllCells(graphs, np.cumsum([0, *map(len, labels)]), labels)
