"""NAS-Bench-201: a cell of 4 nodes with one of 5 operations on each of its 6 edges (Dong & Yang 2020, https://arxiv.org/abs/2001.00326)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.spaces.base import Cost, Drawing, Edge, Graph, Node, SearchSpace

OPS = ("avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3", "none", "skip_connect")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (from, to), in the order of the arch string
_ENDS = ((0, 0), *EDGES, (3, 3))  # the same for the vertices of the graph: input, operations, output
_LINES = np.array([[int(v < w and end == start) for w, (start, _) in enumerate(_ENDS)] for v, (_, end) in enumerate(_ENDS)])  # (8, 8)
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # edges of every way from node 0 to node 3
_FIRST_INDEX = {1: 0, 2: 5, 3: 30}  # index of the first path of each length
_INDEX = {op: i for i, op in enumerate(OPS)}
_NONE = _INDEX["none"]
_EDGE = r"\|([^|~]+)~"
_PATTERN = re.compile(rf"{_EDGE}0\|\+{_EDGE}0{_EDGE}1\|\+{_EDGE}0{_EDGE}1{_EDGE}2\|")


@cache  # at most 15,625 entries: text that is not an architecture raises and is not kept
def _indices(text: str) -> tuple[int, ...]:
    """(6,) operation index of each edge of an arch string."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise OutOfSpaceError(f"not an arch string of NAS-Bench-201: {text!r}; the form is '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|'")
    return _check_ops(match.groups())


def _check_ops(ops: Sequence[str]) -> tuple[int, ...]:
    for op in ops:
        if not isinstance(op, str) or op not in _INDEX:
            raise OutOfSpaceError(f"{op!r} is no operation of NAS-Bench-201; allowed: {', '.join(OPS)}")
    return tuple(_INDEX[op] for op in ops)


@cache
def _arch(indices: tuple[int, ...]) -> Arch:
    a, b, c, d, e, f = (OPS[i] for i in indices)
    text = f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
    return Arch.make("nasbench201", text, arch=text)


@cache
def _cost(conv1x1: int, conv3x3: int) -> Cost:
    """Cost of the CIFAR-10 network whose cells hold so many convolutions; the other operations are free."""
    convolutions: list[tuple[int, int]] = [
        (27 * 16 + 2 * 16, 32)
    ]  # (weights with those of the batch norm, output height and width): the stem
    for channels, size in ((16, 32), (32, 16), (64, 8)):
        if channels > 16:  # residual block of stride 2: two 3x3 convolutions with batch norm, a 1x1 shortcut without
            half = channels // 2
            convolutions.append((9 * half * channels + 9 * channels**2 + 4 * channels + half * channels, size))
        weights = conv1x1 * (channels**2 + 2 * channels) + conv3x3 * (9 * channels**2 + 2 * channels)
        convolutions.append((5 * weights, size))
    convolutions.append((2 * 64, 8))  # batch norm before the global pool
    # Every weight of a convolution is used once for each output position, and batch norm has two weights and costs two per element.
    return Cost(sum(w for w, _ in convolutions) + 65 * 10, sum(w * size**2 for w, size in convolutions) + 64 * 10)


class NASBench201Space(SearchSpace):
    """The 15,625 cells of NAS-Bench-201. `Arch` has one field, `arch`, the benchmark's string, and that string is the id.

    The order of the nodes is part of the benchmark: two strings that describe isomorphic cells (or differ only in operations
    that a `none` cuts off) are two rows of its table, trained separately, so they are two architectures here as well.
    Operations are listed in the order of the string: edges (0-1), (0-2), (1-2), (0-3), (1-3), (2-3).
    """

    name = "nasbench201"
    network = "trainables.learning.networks.nasbench201:NASBench201Network"
    recipes: ClassVar = {"search": "nasbench201", "train": "nasbench201"}
    num_paths = 155  # 5 + 25 + 125
    size = 15_625
    truncation = 30  # all paths of at most two operations
    adjacency_sizes = (len(OPS),) * len(EDGES)
    graph_operations = ("input", *OPS, "output")
    fields = ("arch",)
    text_start = "|"
    table_epochs = 200

    def make(self, ops: Sequence[str]) -> Arch:
        """The architecture with these 6 operations.

        Raises:
            OutOfSpaceError: not 6 operations, or an unknown one.
        """
        if isinstance(ops, str) or len(ops) != len(EDGES):
            raise OutOfSpaceError(f"NAS-Bench-201 needs a list of {len(EDGES)} operations, one an edge; got {ops!r}")
        return _arch(_check_ops(ops))

    def parse(self, text: str) -> Arch:
        """The architecture of an arch string, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.

        Raises:
            OutOfSpaceError: the text has another form, or an operation is unknown.
        """
        return _arch(_indices(text))

    def operations(self, arch: Arch) -> tuple[str, ...]:
        """(6,) the operations of `arch`."""
        return tuple(OPS[i] for i in _indices(arch.id))

    def from_config(self, config: Mapping[str, Any]) -> Arch:
        text = config.get("arch")
        if config.get("space", self.name) != self.name:
            raise OutOfSpaceError(f"an architecture of space {config['space']!r} does not belong to {self.name!r}")
        if not isinstance(text, str):
            raise OutOfSpaceError(f"an architecture of NAS-Bench-201 needs the field 'arch', a string; got {text!r}")
        return self.parse(text)

    def from_text(self, text: str) -> Arch:
        """The architecture of an arch string, or of JSON."""
        return self.parse(text) if text.startswith("|") else super().from_text(text)

    def from_columns(self, *texts: str) -> Arch:
        return self.parse(*texts)

    def to_columns(self, arch: Arch) -> tuple[str, ...]:
        return (arch.id,)

    def sample(self, rng: np.random.Generator) -> Arch:
        """Every architecture with the same probability."""
        return _arch(tuple(rng.integers(len(OPS), size=len(EDGES)).tolist()))

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        """Each of the 6 operations becomes one of the 4 others with probability `rate` / 4, so 1.5 * `rate` change on average.

        The 4, not 6, is that of the authors of BANANAS (https://github.com/naszilla/naszilla).
        """
        changed = rng.random(len(EDGES)) < rate / 4
        shifts = np.where(changed, rng.integers(1, len(OPS), size=len(EDGES)), 0)
        return _arch(tuple(((shifts + _indices(arch.id)) % len(OPS)).tolist()))

    def neighbors(self, arch: Arch) -> list[Arch]:
        """The 24 architectures with one other operation: edges in order, operations in order."""
        ops = _indices(arch.id)
        return [_arch((*ops[:e], op, *ops[e + 1 :])) for e in range(len(EDGES)) for op in range(len(OPS)) if op != ops[e]]

    def paths(self, arch: Arch) -> tuple[int, ...]:
        """The 4 paths; among those of one length, the first operation is the least significant digit in base 5.

        As in the reference `none` is an operation like any other, and both paths of length two share their 25 indices.
        """
        ops = _indices(arch.id)
        return tuple(sorted(_FIRST_INDEX[len(path)] + sum(ops[e] * 5**i for i, e in enumerate(path)) for path in PATHS))

    def path_lengths(self) -> NDArray[np.int64]:
        return np.repeat([1, 2, 3], [5, 25, 125])

    def adjacency(self, arch: Arch) -> tuple[int, ...]:
        """(6,) the index in `OPS` of each operation."""
        return _indices(arch.id)

    def from_adjacency(self, variables: Sequence[int]) -> Arch:
        return _arch(tuple(variables))

    def graph(self, arch: Arch) -> Graph:
        """V = 8: the input, the 6 operations in the order of the arch string, the output; an edge where one operation feeds the other.

        It is the line graph of the cell, whose edges are the operations; `none` is an operation like any other.
        """
        return Graph(_LINES.copy(), np.array([0, *[1 + op for op in _indices(arch.id)], 1 + len(OPS)], dtype=np.int64))

    def draw(self, arch: Arch) -> list[Drawing]:
        """The cell as in the paper (figure 1): four sums of features, operations on the edges; `none` is no edge."""
        nodes = (Node("input", "end"), Node("1", "sum"), Node("2", "sum"), Node("output", "end"))
        edges = [Edge(*ends, op) for ends, op in zip(EDGES, self.operations(arch), strict=True) if op != "none"]
        return [Drawing("", nodes, tuple(edges))]

    def operation_pairs(self, arch: Arch) -> NDArray[np.int64]:
        """(5, 5) ways of two successive edges, by their operations; `none` is an operation like any other."""
        ops, counts = _indices(arch.id), np.zeros((len(OPS), len(OPS)), dtype=np.int64)
        for first, (_, end) in enumerate(EDGES):
            for second, (start, _) in enumerate(EDGES):
                counts[ops[first], ops[second]] += end == start
        return counts

    def scalars(self, arch: Arch) -> tuple[float, ...]:
        """Log cost, share of each operation; then of the paths without `none`: how many, shortest, longest, most convolutions."""
        ops = _indices(arch.id)
        live = [path for path in ([ops[e] for e in edges] for edges in PATHS) if _NONE not in path]
        lengths = [len(path) for path in live]
        convolutions = [sum(op in (1, 2) for op in path) for path in live]
        shape = (len(live) / 4, min(lengths, default=0) / 3, max(lengths, default=0) / 3, max(convolutions, default=0) / 3)
        return (*super().scalars(arch), *(ops.count(op) / len(EDGES) for op in range(len(OPS))), *shape)

    def cost(self, arch: Arch) -> Cost:
        """Cost of the CIFAR-10 network of the paper: 3 stages of 5 cells with 16, 32 and 64 channels.

        Operations that a `none` cuts off count too, as in the benchmark's own figures; all batch norms are affine there.
        """
        ops = _indices(arch.id)
        return _cost(ops.count(_INDEX["nor_conv_1x1"]), ops.count(_INDEX["nor_conv_3x3"]))

    def enumerate(self) -> Iterator[Arch]:
        """All 15,625, the operation of the last edge changing fastest, in the order of `OPS`."""
        return map(_arch, product(range(len(OPS)), repeat=len(EDGES)))
