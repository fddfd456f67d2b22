"""The graphs of NAS-Bench-101: pruning, hash, channels, edits (Ying et al. 2019, https://arxiv.org/abs/1902.09635).

V: vertices of a cell, the input first and the output last; edges go from lower to higher vertices. A graph is a matrix (V, V)
of 0 and 1, or a list `rows` of V bitmasks: bit w of rows[v] is the edge v -> w.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import md5
from typing import TypeVar

MAX_VERTICES = 7
MAX_EDGES = 9
OPS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")  # the code of an operation is its position: in hashes, paths, encodings
CODES = {op: code for code, op in enumerate(OPS)}
NUM_OPS = len(OPS)
INPUT, OUTPUT = "input", "output"

T = TypeVar("T")
Matrix = tuple[tuple[int, ...], ...]
AnyMatrix = Sequence[Sequence[int]]
_HASH_LABELS = {INPUT: -1, OUTPUT: -2} | CODES


def to_mask(row: Sequence[int]) -> int:
    """One row of a matrix as a bitmask."""
    return sum([1 << w for w, edge in enumerate(row) if edge])


def unpack_rows(code: int, vertices: int) -> list[int]:
    """The graph of an edge code: bit i stands for the i-th possible edge in the order 0-1, 0-2, 1-2, 0-3, ... of the published table."""
    rows = [0] * vertices
    for w in range(1, vertices):
        for v in range(w):
            rows[v] |= (code & 1) << w
            code >>= 1
    return rows


def unpack_ops(code: int, count: int) -> list[int]:
    """The `count` base-3 digits of `code`, most significant first: the operation of each interior vertex."""
    return [code // NUM_OPS**i % NUM_OPS for i in range(count - 1, -1, -1)]


def kept_vertices(rows: Sequence[int]) -> list[int]:
    """The vertices on a path from input to output, ascending; empty where there is no such path."""
    ahead, behind = 1, 1 << (len(rows) - 1)
    for v, row in enumerate(rows):
        if ahead >> v & 1:
            ahead |= row
    for v in range(len(rows) - 1, -1, -1):
        if rows[v] & behind:
            behind |= 1 << v
    both = ahead & behind
    return [v for v in range(len(rows)) if both >> v & 1] if both & 1 else []


def prune(matrix: AnyMatrix, ops: Sequence[T]) -> tuple[Matrix, tuple[T, ...]] | None:
    """`matrix` (V, V), upper triangular, and `ops` (V,) without the vertices that are on no path from input to output.

    None where no such path exists, or fewer than two vertices are given.
    """
    rows = [to_mask(row) for row in matrix]
    kept = kept_vertices(rows)
    if len(kept) < 2:
        return None
    return tuple([tuple([rows[v] >> w & 1 for w in kept]) for v in kept]), tuple([ops[v] for v in kept])


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


_md5_of_vertex = lru_cache(maxsize=None)(_md5)  # texts of a few dozen kinds


def module_hash(matrix: AnyMatrix, ops: Sequence[str]) -> str:
    """The key of a pruned cell in the published table: equal for isomorphic cells, an iterated hash of each vertex's neighbourhood.

    Equal to `hash_module` of https://github.com/google-research/nasbench (nasbench/lib/graph_util.py).

    Args:
        matrix: (V, V) upper triangular.
        ops: (V,) from "input" to "output".
    """
    after = [[w for w, edge in enumerate(row) if edge] for row in matrix]
    before: list[list[int]] = [[] for _ in matrix]
    for v, successors in enumerate(after):
        for w in successors:
            before[w].append(v)
    around = list(zip(before, after, strict=True))
    hashes = [_md5_of_vertex(str((len(a), len(b), _HASH_LABELS[op]))) for (b, a), op in zip(around, ops, strict=True)]
    join = "".join
    for _ in around:
        of = hashes.__getitem__
        hashes = [_md5(f"{join(sorted(map(of, b)))}|{join(sorted(map(of, a)))}|{own}") for (b, a), own in zip(around, hashes, strict=True)]
    return _md5(str(sorted(hashes)))


def vertex_channels(in_channels: int, out_channels: int, matrix: AnyMatrix) -> list[int]:
    """(V,) output channels of each vertex of a pruned cell (Ying et al. 2019, section 2.2; `compute_vertex_channels` of the reference).

    Interior vertices that feed the output share its channels, the first ones taking the remainder; any other vertex has as many as
    its widest successor.
    """
    last = len(matrix) - 1
    channels = [in_channels] + [0] * (last - 1) + [out_channels]
    feeding = [v for v in range(1, last) if matrix[v][last]]
    for rank, v in enumerate(feeding):
        channels[v] = out_channels // len(feeding) + (rank < out_channels % len(feeding))
    for v in range(last - 1, 0, -1):
        if not matrix[v][last]:
            channels[v] = max([channels[w] for w in range(v + 1, last) if matrix[v][w]])
    return channels


def module_parameters(in_channels: int, out_channels: int, matrix: Matrix, ops: Sequence[str]) -> int:
    """Trainable parameters of one module: convolutions without bias, each with the scale and shift of its batch normalisation."""
    *channels, _ = vertex_channels(in_channels, out_channels, matrix)
    total = in_channels * out_channels + 2 * out_channels if matrix[0][-1] else 0  # 1x1 projection, added to the output
    for v in range(1, len(channels)):
        c = channels[v]
        if matrix[0][v]:
            total += in_channels * c + 2 * c  # 1x1 projection of the module's input
        if ops[v] == "conv3x3-bn-relu":
            total += 9 * c * c + 2 * c
        elif ops[v] == "conv1x1-bn-relu":
            total += c * c + 2 * c
    return total


def sorted_graph(rows: Sequence[int], ops: Sequence[str], priority: Sequence[int]) -> tuple[list[int], list[str]]:
    """The same graph with its vertices in topological order; among those that may come next the first in `priority` is taken."""
    waiting, order = list(priority), []
    while waiting:
        blocked = 0
        for u in waiting:
            blocked |= rows[u]
        v = next(v for v in waiting if not blocked >> v & 1)
        waiting.remove(v)
        order.append(v)
    return [sum([1 << i for i, w in enumerate(order) if rows[v] >> w & 1]) for v in order], [ops[v] for v in order]


def edits(rows: list[int], ops: Sequence[str]) -> Iterator[tuple[list[int], Sequence[str]]]:
    """All graphs one edit away from a pruned cell; not sorted topologically, not pruned, with repetitions."""
    size, edges = len(rows), sum([row.bit_count() for row in rows])
    reach = [0] * size  # the vertices that can be reached from each
    for v in range(size - 1, -1, -1):
        reach[v] = rows[v]
        for w in range(v + 1, size):
            if rows[v] >> w & 1:
                reach[v] |= reach[w]
    for v in range(1, size - 1):
        for op in OPS:
            if op != ops[v]:
                yield rows, [*ops[:v], op, *ops[v + 1 :]]
    for v in range(size - 1):
        for w in range(1, size):
            if v == w or reach[w] >> v & 1:
                continue  # an edge v -> w would close a cycle
            has_edge = rows[v] >> w & 1
            if has_edge or edges < MAX_EDGES:
                yield [*rows[:v], rows[v] ^ 1 << w, *rows[v + 1 :]], ops
            if size < MAX_VERTICES and edges + 2 <= MAX_EDGES:
                longer = [*rows[:v], rows[v] | 1 << size, *rows[v + 1 :], 1 << w]
                for op in OPS:
                    yield longer, [*ops, op]
