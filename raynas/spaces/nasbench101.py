"""NAS-Bench-101: cells of at most 7 vertices and 9 edges (Ying et al. 2019, https://arxiv.org/abs/1902.09635).

V: vertices of a cell, the input first and the output last; `rows`: V bitmasks, bit w of rows[v] is the edge v -> w.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, permutations
from math import log10
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.registry import unknown
from raynas.spaces.base import Cost, Graph, Published, SearchSpace
from raynas.spaces.nasbench101_cells import all_cells, canonical, moves
from raynas.spaces.nasbench101_graph import (
    CODES,
    INPUT,
    MAX_EDGES,
    MAX_VERTICES,
    NUM_OPS,
    OPS,
    OUTPUT,
    Matrix,
    edits,
    kept_vertices,
    module_hash,
    module_parameters,
    prune,
    sorted_graph,
    to_mask,
    unpack_ops,
    unpack_rows,
    vertex_channels,
)

__all__ = ["OPS", "SAMPLERS", "Matrix", "NASBench101Space", "module_hash", "prune", "vertex_channels"]

MAX_INTERIOR = MAX_VERTICES - 2
EDGES = tuple(combinations(range(MAX_VERTICES), 2))  # the 21 possible edges, row-major
_PLACES = list(permutations(range(1, MAX_VERTICES - 1)))  # of the interior vertices, in the order of `moves`
PATH_LENGTHS = np.repeat(np.arange(MAX_INTERIOR + 1), NUM_OPS ** np.arange(MAX_INTERIOR + 1))  # (364,)

STEM_CHANNELS, CLASSES, SIDE = 128, 10, 32
# (input channels, output channels, side of the image, how often): three stacks of three modules, the first of a stack widens
MODULES = ((128, 128, 32, 3), (128, 256, 16, 1), (256, 256, 16, 2), (256, 512, 8, 1), (512, 512, 8, 2))

GRAPH_OPERATIONS = (INPUT, *OPS, OUTPUT)
# fmt: off
INCEPTION_LIKE = {
    "space": "nasbench101",
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


def _conv3x3_counts() -> list[int]:
    """(364,) 3x3 convolutions on each path; path p is an operation of code (p - 1) % 3 and then path (p - 1) // 3."""
    counts = [0]
    for path in range(1, len(PATH_LENGTHS)):
        counts.append(counts[(path - 1) // NUM_OPS] + ((path - 1) % NUM_OPS == CODES["conv3x3-bn-relu"]))
    return counts


PATH_CONV3X3 = _conv3x3_counts()


@lru_cache(maxsize=1 << 13)  # searchers meet the same cells again and again, and hashing is most of the work
def _arch(vertices: int, edge_code: int, op_code: int) -> Arch:
    """The architecture of three canonical numbers."""
    rows = unpack_rows(edge_code, vertices)
    matrix = tuple([tuple([row >> w & 1 for w in range(vertices)]) for row in rows])
    ops = (INPUT, *[OPS[code] for code in unpack_ops(op_code, vertices - 2)], OUTPUT)
    return Arch("nasbench101", module_hash(matrix, ops), (("adjacency", matrix), ("operations", ops)))


def _cell(rows: Sequence[int], ops: Sequence[str]) -> Arch | None:
    """The architecture of an upper-triangular graph after pruning, or None where it is not in the space."""
    kept = kept_vertices(rows)
    if not 2 <= len(kept) <= MAX_VERTICES:
        return None
    edges = [w * (w - 1) // 2 + v for w, b in enumerate(kept) for v, a in enumerate(kept[:w]) if rows[a] >> b & 1]
    if len(edges) > MAX_EDGES:
        return None
    return _arch(*canonical(len(kept), edges, [CODES[ops[v]] for v in kept[1:-1]]))


def _sample_reference(rng: np.random.Generator) -> Arch:
    """Each of the 21 edges with probability 1/2, each operation uniformly, again until valid: favours small cells strongly."""
    while True:
        rows = unpack_rows(int(rng.integers(1 << len(EDGES))), MAX_VERTICES)
        codes = unpack_ops(int(rng.integers(NUM_OPS**MAX_INTERIOR)), MAX_INTERIOR)
        cell = _cell(rows, [INPUT, *[OPS[code] for code in codes], OUTPUT])
        if cell is not None:
            return cell


def _sample_uniform(rng: np.random.Generator) -> Arch:
    """Each distinct cell with the same probability."""
    return _arch(*all_cells()[int(rng.integers(len(all_cells())))])


SAMPLERS: dict[str, Callable[[np.random.Generator], Arch]] = {"reference": _sample_reference, "uniform": _sample_uniform}


def _padded(arch: Arch) -> tuple[list[int], list[str]]:
    """The cell with 7 vertices: its interior, unused vertices without edges and with operation 0, the output."""
    matrix, ops = arch["adjacency"], arch["operations"]
    unused = MAX_VERTICES - len(ops)
    rows = [to_mask(row[:-1]) | row[-1] << (MAX_VERTICES - 1) for row in matrix[:-1]]
    return rows + [0] * (unused + 1), [*ops[:-1], *[OPS[0]] * unused, OUTPUT]


@lru_cache(maxsize=1 << 12)
def _embeddings(adjacency: Matrix) -> tuple[list[int], list[tuple[int, ...]]]:
    """All ways to put a cell among 7 vertices: edge codes, and for each the place of every interior vertex (1 to 5), unused ones last."""
    last = len(adjacency) - 1
    at = [*range(last), MAX_VERTICES - 1]
    edges = [at[w] * (at[w] - 1) // 2 + at[v] for v, row in enumerate(adjacency) for w, edge in enumerate(row) if edge]
    codes = moves(MAX_VERTICES).edges[edges].sum(axis=0)
    upper = np.flatnonzero(codes < 1 << len(EDGES)).tolist()  # the other permutations turn an edge round
    return codes[upper].tolist(), [_PLACES[p] for p in upper]


def _embedded(arch: Arch, rng: np.random.Generator) -> tuple[int, list[int]]:
    """A random graph of 7 vertices that prunes to the cell: its edge code, and the operation codes of its interior.

    The interior comes in a random topological order, unused vertices in between. Each unused vertex gets a random operation and
    one random edge, so that a single flip can connect it; until then it is on no path from input to output, as a path through n
    unused vertices takes n + 1 of their edges.
    """
    ops = arch["operations"]
    codes, places = _embeddings(arch["adjacency"])
    chosen = int(rng.integers(len(codes)))
    code, place = codes[chosen], places[chosen]
    labels = [0] * MAX_INTERIOR
    for op, v in zip(ops[1:-1], place, strict=False):
        labels[v - 1] = CODES[op]
    unused = place[len(ops) - 2 :]
    for v, draw in zip(unused, rng.integers(NUM_OPS * (MAX_VERTICES - 1), size=len(unused)).tolist(), strict=True):
        other, labels[v - 1] = divmod(draw, NUM_OPS)
        other += other >= v
        low, high = min(v, other), max(v, other)
        code |= 1 << high * (high - 1) // 2 + low
    return code, labels


def _checked(matrix: Any, operations: Any) -> tuple[list[int], list[str]]:
    """Rows and operations of a graph that a user gave; raises OutOfSpaceError unless it is upper triangular with known operations."""
    try:
        entries, ops = [list(row) for row in matrix], [str(op) for op in operations]
    except TypeError:
        raise OutOfSpaceError("a NAS-Bench-101 cell needs a matrix of 0 and 1 and a list of operations") from None
    size = len(ops)
    if len(entries) != size or any(len(row) != size for row in entries):
        shape = f"{len(entries)} rows of {sorted({len(row) for row in entries})} entries"
        raise OutOfSpaceError(f"the matrix must be square with one row for each of the {size} operations, it has {shape}")
    if size < 2 or ops[0] != INPUT or ops[-1] != OUTPUT:
        raise OutOfSpaceError(f"operations must start with {INPUT!r} and end with {OUTPUT!r}, not {ops}")
    for op in ops[1:-1]:
        if op not in CODES:
            raise OutOfSpaceError(str(unknown("operation", op, OPS)))
    for v, row in enumerate(entries):
        for w, edge in enumerate(row):
            if edge not in (0, 1):
                raise OutOfSpaceError(f"the matrix must hold 0 and 1 only, not {edge!r} (row {v}, column {w})")
            if edge and w <= v:
                raise OutOfSpaceError(f"the matrix must be upper triangular, but row {v}, column {w} is 1; reorder the vertices")
    return [to_mask(row) for row in entries], ops


class NASBench101Space(SearchSpace):
    """The 423,624 cells of NAS-Bench-101; `spec` holds the pruned `adjacency` (V, V) and `operations` (V,) as published.

    Args:
        sampler: "reference" draws edges and operations independently, as the published searches do; "uniform" draws every
            distinct cell with the same probability.
    """

    name = "nasbench101"
    network = "trainables.learning.networks.nasbench101:NASBench101Network"
    recipes: ClassVar = {"search": "nasbench101", "train": "nasbench101"}
    num_paths = len(PATH_LENGTHS)
    size = 423_624
    truncation = 40  # the paths of at most 3 operations
    adjacency_sizes = (2,) * len(EDGES) + (NUM_OPS,) * MAX_INTERIOR
    decision_order = (*range(len(EDGES), len(EDGES) + MAX_INTERIOR), *range(len(EDGES)))  # operations, then edges
    graph_operations = GRAPH_OPERATIONS
    fields = columns = ("adjacency", "operations")
    table_epochs = 108
    published: ClassVar[Mapping[str, Published]] = {
        "inception-like": Published(
            INCEPTION_LIKE, "a cell like Inception's: Ying et al. 2019, https://arxiv.org/abs/1902.09635, in the README of their code"
        )
    }

    def __init__(self, sampler: str = "reference") -> None:
        if sampler not in SAMPLERS:
            raise unknown("sampler", sampler, SAMPLERS)
        self.sampler = sampler

    def make(self, matrix: Any, operations: Any) -> Arch:
        """The architecture of a cell, pruned or not; its vertices come in the order of the published table.

        Args:
            matrix: (V, V) of 0 and 1, upper triangular: nested sequences or an array.
            operations: (V,) "input", names from `OPS`, "output".

        Raises:
            OutOfSpaceError: it is not a cell of this space; the message says why.
        """
        rows, ops = _checked(matrix, operations)
        cell = _cell(rows, ops)
        if cell is not None:
            return cell
        kept = kept_vertices(rows)
        if not kept:
            raise OutOfSpaceError("the matrix connects input and output by no path")
        edges = sum(rows[v] >> w & 1 for v in kept for w in kept)
        allowed = f"at most {MAX_VERTICES} vertices and {MAX_EDGES} edges"
        raise OutOfSpaceError(f"the cell has {len(kept)} vertices and {edges} edges after pruning; allowed are {allowed}")

    def from_columns(self, *texts: str) -> Arch:
        return self.from_strings(*texts)

    def to_columns(self, arch: Arch) -> tuple[str, ...]:
        return "".join([str(entry) for row in arch["adjacency"] for entry in row]), ",".join(arch["operations"])

    def from_strings(self, adjacency: str, operations: str) -> Arch:
        """The architecture of a table's row: V * V characters 0 or 1, row-major, and V names joined by commas; errors as `make`."""
        ops = operations.split(",")
        size = len(ops)
        if len(adjacency) != size * size or set(adjacency) - {"0", "1"}:
            raise OutOfSpaceError(f"for {size} operations the adjacency must be {size * size} characters 0 or 1, not {adjacency!r}")
        entries = [int(character) for character in adjacency]
        return self.make([entries[i : i + size] for i in range(0, size * size, size)], ops)

    def from_config(self, config: Mapping[str, Any]) -> Arch:
        missing = {"adjacency", "operations"} - config.keys()
        if missing or config.get("space", self.name) != self.name:
            raise OutOfSpaceError(f"a {self.name} architecture needs the fields 'adjacency' and 'operations', got {dict(config)}")
        return self.make(config["adjacency"], config["operations"])

    def sample(self, rng: np.random.Generator) -> Arch:
        return SAMPLERS[self.sampler](rng)

    def enumerate(self) -> Iterator[Arch]:
        """All 423,624 cells, each once, small ones first."""
        cells = all_cells()
        return (_arch(*cells[index]) for index in range(len(cells)))

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        """Flips each of the 21 edges of a random embedding into 7 vertices with probability rate / 21 and changes each of its 5
        operations with probability rate / 5; again until valid. Edges flip with at most 1/2, where the graph is random anyway.
        """
        flip, change = min(rate / len(EDGES), 0.5), rate / MAX_INTERIOR
        while True:
            code, labels = _embedded(arch, rng)
            draws = rng.random(len(EDGES) + MAX_INTERIOR).tolist()
            for i, draw in enumerate(draws[: len(EDGES)]):
                if draw < flip:
                    code ^= 1 << i
            for v, draw in enumerate(draws[len(EDGES) :]):
                if draw < change:
                    labels[v] = (labels[v] + (1 if draw < change / 2 else 2)) % NUM_OPS
            child = _cell(unpack_rows(code, MAX_VERTICES), [INPUT, *[OPS[label] for label in labels], OUTPUT])
            if child is not None:
                return child

    def neighbors(self, arch: Arch) -> list[Arch]:
        """The cells one edit away, ordered by id: another operation, an edge less (and pruned), an edge more, or a new vertex with
        one edge from and one edge to a vertex of the cell.
        """
        rows = [to_mask(row) for row in arch["adjacency"]]
        found: dict[str, Arch] = {}
        for longer, ops in edits(rows, arch["operations"]):
            cell = _cell(*sorted_graph(longer, ops, range(len(longer))))
            if cell is not None:
                found[cell.id] = cell
        found.pop(arch.id, None)
        return [found[id] for id in sorted(found)]

    def paths(self, arch: Arch) -> tuple[int, ...]:
        """Index of a path with operation codes c_1 ... c_L: the sum of 3^(i-1) (c_i + 1), so that shorter paths come first."""
        matrix, ops = arch["adjacency"], arch["operations"]
        last = len(ops) - 1
        onward: list[list[int]] = [[] for _ in range(last)] + [[0]]  # of each vertex: the paths from it, itself included, to the output
        for v in range(last - 1, -1, -1):
            ahead = [path for w in range(v + 1, last + 1) if matrix[v][w] for path in onward[w]]
            onward[v] = [CODES[ops[v]] + 1 + NUM_OPS * path for path in ahead] if v else ahead
        return tuple(sorted(onward[0]))

    def path_lengths(self) -> NDArray[np.int64]:
        return PATH_LENGTHS.copy()

    def cost(self, arch: Arch) -> Cost:
        """For a 3 x 32 x 32 image and 10 classes.

        At each pixel a convolution multiplies as often as it has weights, and a batch normalisation costs two per channel, as
        many as it has parameters: a module costs its parameters times the number of its pixels.
        """
        matrix, ops = arch["adjacency"], arch["operations"]
        stem = 9 * 3 * STEM_CHANNELS + 2 * STEM_CHANNELS
        head = MODULES[-1][1] * CLASSES
        parameters, flops = stem + head + CLASSES, stem * SIDE * SIDE + head
        for in_channels, out_channels, side, repeats in MODULES:
            module = repeats * module_parameters(in_channels, out_channels, matrix, ops)
            parameters += module
            flops += module * side * side
        return Cost(parameters, flops)

    def adjacency(self, arch: Arch) -> tuple[int, ...]:
        """The 21 possible edges, row-major, of the cell's interior, then unused vertices, then the output; and 5 operation codes."""
        rows, ops = _padded(arch)
        return (*[rows[v] >> w & 1 for v, w in EDGES], *[CODES[op] for op in ops[1:-1]])

    def from_adjacency(self, variables: Sequence[int]) -> Arch:
        rows = [0] * MAX_VERTICES
        for (v, w), edge in zip(EDGES, variables, strict=False):
            rows[v] |= edge << w
        cell = _cell(rows, [INPUT, *[OPS[code] for code in variables[len(EDGES) :]], OUTPUT])
        if cell is None:
            raise OutOfSpaceError(f"these edges and operations are no cell of NAS-Bench-101: {tuple(variables)}")
        return cell

    def graph(self, arch: Arch) -> Graph:
        """The cell itself."""
        operations = np.array([GRAPH_OPERATIONS.index(op) for op in arch["operations"]], dtype=np.int64)
        return Graph(np.array(arch["adjacency"], dtype=np.int64), operations)

    def operation_pairs(self, arch: Arch) -> NDArray[np.int64]:
        """(4, 4) edges from the input and the operations to the operations and the output."""
        codes = np.array([CODES.get(op, NUM_OPS) for op in arch["operations"]])
        starts, ends = np.nonzero(arch["adjacency"])
        counts = np.zeros((NUM_OPS + 1, NUM_OPS + 1), dtype=np.int64)
        np.add.at(counts, (codes[starts], codes[ends]), 1)
        return counts

    def scalars(self, arch: Arch) -> tuple[float, ...]:
        """(13,) log parameters, log FLOPs; edges, vertices; count of each operation; operations on the longest and the shortest path,
        most 3x3 convolutions on a path; input-output edge, output in-degree, input out-degree.
        """
        matrix, ops, paths, cost = arch["adjacency"], arch["operations"], self.paths(arch), self.cost(arch)
        return (
            log10(cost.parameters) - 6.5,
            log10(cost.flops) - 8.5,
            sum(map(sum, matrix)) / MAX_EDGES,
            len(ops) / MAX_VERTICES,
            *[ops.count(op) / MAX_INTERIOR for op in OPS],
            int(PATH_LENGTHS[paths[-1]]) / MAX_INTERIOR,
            int(PATH_LENGTHS[paths[0]]) / MAX_INTERIOR,
            max([PATH_CONV3X3[path] for path in paths]) / MAX_INTERIOR,
            float(matrix[0][-1]),
            sum([row[-1] for row in matrix]) / MAX_INTERIOR,
            sum(matrix[0]) / MAX_INTERIOR,
        )
