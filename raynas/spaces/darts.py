"""The DARTS search space: a normal and a reduction cell of 4 nodes with 2 inputs each (Liu et al. 2019, https://arxiv.org/abs/1806.09055).

A cell is written as 8 pairs (operation, input), two for each node in order. Input 0 is the output of the cell before the
previous one, input 1 that of the previous cell, input j + 2 the node j, counted from 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from json import dumps
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError
from raynas.spaces.base import Cost, Drawing, Edge, Graph, Node, SearchSpace
from raynas.spaces.darts_published import GENOTYPES as GENOTYPES
from raynas.spaces.darts_published import PUBLISHED

OPS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
NODES = 4
PAIRS = 2 * NODES
KINDS = ("normal", "reduce")
Pair = tuple[int, int]  # (index in OPS, input)
Cell = tuple[Pair, ...]  # 8 of them

_INDEX = {op: i for i, op in enumerate(OPS)}
_BLOCK = sum(len(OPS) ** length for length in range(NODES + 1))  # 4,681 path indices for each input of each kind of cell


@lru_cache(maxsize=1 << 14)
def _canonical(cell: Cell) -> Cell:
    """The smallest of all descriptions of the cell: equal for two cells exactly where they are isomorphic.

    The nodes are numbered anew, each time taking the node with the smallest pair of inputs among those whose inputs have
    numbers; where two tie both are tried. That is the minimum over all orders that keep inputs before their users.
    """

    def grow(number: dict[int, int], rows: Cell) -> Cell:  # number: new number of each input that has one
        if len(rows) == PAIRS:
            return rows
        free: dict[int, Cell] = {}
        for node in range(NODES):
            (op_a, a), (op_b, b) = cell[2 * node : 2 * node + 2]
            if node + 2 not in number and a in number and b in number:
                free[node] = tuple(sorted(((op_a, number[a]), (op_b, number[b])), key=lambda pair: pair[::-1]))
        best = min(free.values())
        return min(grow({**number, node + 2: len(number)}, rows + row) for node, row in free.items() if row == best)

    return grow({0: 0, 1: 1}, ())


@lru_cache(maxsize=1 << 14)
def _cell_paths(cell: Cell) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each of both inputs all paths from it to a node, as (index in the block, length)."""
    ways: list[list[list[tuple[int, int]]]] = [[[(0, 0)], []], [[], [(0, 0)]]]  # at each input or node, from input 0 and from input 1
    for node in range(NODES):
        pairs = cell[2 * node : 2 * node + 2]
        ways.append(
            [
                [(index + len(OPS) ** length * (op + 1), length + 1) for op, source in pairs for index, length in ways[source][start]]
                for start in (0, 1)
            ]
        )
    return tuple(tuple(path for node in ways[2:] for path in node[start]) for start in (0, 1))


@lru_cache(maxsize=1 << 14)
def _cell_id(cell: Cell) -> str:
    return "".join(f"{op}{source}" for op, source in _canonical(cell))


@lru_cache(maxsize=1 << 14)
def _names(cell: Cell) -> tuple[tuple[str, int], ...]:
    return tuple((OPS[op], source) for op, source in cell)


@lru_cache(maxsize=1 << 14)
def _indices(cell: tuple[tuple[str, int], ...]) -> Cell:
    return tuple((_INDEX[op], source) for op, source in cell)


def _cells(arch: Arch) -> tuple[Cell, Cell]:
    return _indices(arch["normal"]), _indices(arch["reduce"])


def _arch(normal: Cell, reduce: Cell) -> Arch:
    return Arch.make("darts", f"{_cell_id(normal)}-{_cell_id(reduce)}", normal=_names(normal), reduce=_names(reduce))


def _op_weights(op: str, channels: int, stride: int) -> int:
    """Trainable parameters of one operation."""
    if op.startswith(("sep_conv", "dil_conv")):  # depthwise convolution, 1x1 convolution, batch norm; twice where separable
        weights = int(op[-1]) ** 2 * channels + channels**2 + 2 * channels
        return 2 * weights if op.startswith("sep_conv") else weights
    return channels**2 + 2 * channels if op == "skip_connect" and stride == 2 else 0  # else identity, plain pooling or zero


def _layers(channels: int, layers: int, image: int) -> Iterator[tuple[bool, int, int, int]]:
    """For each cell of the network: whether it is a reduction cell, its channels, height and width of its inputs and of its output."""
    for layer in range(layers):
        reduction = layer in (layers // 3, 2 * layers // 3)
        channels, output = (2 * channels, image // 2) if reduction else (channels, image)
        yield reduction, channels, image, output
        image = output


@lru_cache(maxsize=64)
def _op_costs(channels: int, layers: int, image: int) -> tuple[tuple[Cost, ...], ...]:
    """Cost of each operation summed over the cells of the network: in the normal cells, then in the reduction cells for strides 1 and 2."""
    totals = [[Cost(0, 0)] * len(OPS) for _ in range(3)]
    for reduction, width, _, size in _layers(channels, layers, image):
        for row, stride in ((1, 1), (2, 2)) if reduction else ((0, 1),):
            for i, op in enumerate(OPS):
                weights = _op_weights(op, width, stride)
                totals[row][i] = Cost(totals[row][i].parameters + weights, totals[row][i].flops + weights * size**2)
    return tuple(map(tuple, totals))


@lru_cache(maxsize=64)
def _skeleton(channels: int, layers: int, classes: int, image: int, auxiliary: bool) -> Cost:
    """Cost of all that does not depend on the architecture: stem, the two 1x1 convolutions before each cell, and the heads."""
    before = last = 3 * channels  # channels of the outputs of the last two cells, at first the stem
    parts = [((27 + 2) * last, image)]  # (weights, height and width of the output) of convolutions with their batch norms
    features = 0  # those that a classifier reads
    for layer, (_, width, size, output) in enumerate(_layers(channels, layers, image)):
        # After a reduction the older input is still twice as high and wide; the convolution that halves it has as many weights.
        parts.append(((before + last + 4) * width, size))
        before, last = last, NODES * width
        if auxiliary and layer == 2 * layers // 3:
            if not 8 <= output <= 10:
                raise ConfigError(f"the auxiliary head needs a feature map of 8x8 to 10x10, not {output}x{output}; try image=32")
            parts += [(128 * (last + 2), 2), (768 * (4 * 128 + 2), 1)]  # pooled to 2x2, a 1x1 and a 2x2 convolution
            features += 768
    features += last
    biases = classes * (2 if auxiliary else 1)
    return Cost(sum(w for w, _ in parts) + features * classes + biases, sum(w * size**2 for w, size in parts) + features * classes)


def darts_cost(arch: Arch, channels: int = 36, layers: int = 20, classes: int = 10, image: int = 32, auxiliary: bool = False) -> Cost:
    """Cost of the network of `layers` cells that the publication evaluates (https://github.com/quark0/darts, cnn/model.py).

    A stem of 3 * `channels`, reduction cells at one and two thirds of the depth, each of which doubles the channels, global
    pooling and a linear classifier; batch norms are affine. `image` is height and width of the input; `auxiliary` adds the
    head that is used in training only.

    Raises:
        ConfigError: a count is below 1, `image` is no multiple of 4, or too small or large for the auxiliary head.
    """
    if min(channels, layers, classes, image) < 1 or image % 4:
        given = f"channels={channels}, layers={layers}, classes={classes}, image={image}"
        raise ConfigError(f"a DARTS network needs counts of at least 1 and an image side that is a multiple of 4; got {given}")
    parameters, flops = _skeleton(channels, layers, classes, image, auxiliary)
    in_normal, *in_reduce = _op_costs(channels, layers, image)
    normal, reduce = _cells(arch)
    # Every weight of a convolution is used once for each output position, and batch norm has two weights and costs two per element.
    costs = [in_normal[op] for op, _ in normal] + [in_reduce[source < 2][op] for op, source in reduce]
    return Cost(parameters + sum(c.parameters for c in costs), flops + sum(c.flops for c in costs))


class DARTSSpace(SearchSpace):
    """Cells of DARTS. `Arch` has the fields `normal` and `reduce`, 8 pairs (operation, input) each, as they were given.

    The id names the two cells up to isomorphism: it does not depend on the order of a node's two inputs, nor on the numbering
    of the nodes, as all four are concatenated and a renumbering only permutes channels. It reads as 8 pairs of digits a cell
    (index in `OPS`, input) of the smallest such description. A node's two inputs differ.

    The operation `none` occurs in published cells but is left out of the space unless `with_none`. `channels` and `layers` are
    those of the network that `cost` counts; 36 and 20 are the published ones.
    """

    name = "darts"
    network = "trainables.learning.networks.darts:darts_network"
    recipes: ClassVar = {"search": "darts-search", "train": "darts-final"}
    num_paths = 4 * _BLOCK  # 18,724
    truncation = 288  # 4 * (8 + 64): all paths of at most two operations
    adjacency_sizes = tuple(size for _ in KINDS for pair in range(PAIRS) for size in (len(OPS), pair // 2 + 2))
    graph_operations = (*OPS, "input_before", "input", "output", "reduce_input_before", "reduce_input", "reduce_output")
    fields = KINDS
    published = PUBLISHED
    published_options: ClassVar[Mapping[str, Any]] = {"with_none": True}
    columns = ("genotype",)
    table_epochs = 600

    def __init__(self, with_none: bool = False, channels: int = 36, layers: int = 20) -> None:
        self.with_none, self.channels, self.layers = with_none, channels, layers
        self._ops = range(0 if with_none else 1, len(OPS))

    def from_genotype(self, normal: Sequence[Sequence[Any]], reduce: Sequence[Sequence[Any]]) -> Arch:
        """The architecture with these two cells, as in `from_genotype(**GENOTYPES["DARTS_V2"])`.

        Raises:
            OutOfSpaceError: a cell is not of this space; the message names the pair and says why.
        """
        return _arch(self._check("normal", normal), self._check("reduce", reduce))

    def from_config(self, config: Mapping[str, Any]) -> Arch:
        if config.get("space", self.name) != self.name:
            raise OutOfSpaceError(f"an architecture of space {config['space']!r} does not belong to {self.name!r}")
        for kind in KINDS:
            concat = config.get(f"{kind}_concat", range(2, NODES + 2))  # a field of published genotypes
            if not isinstance(concat, (list, tuple, range)) or list(concat) != list(range(2, NODES + 2)):
                raise OutOfSpaceError(
                    f"a cell of this space concatenates all its nodes: {kind}_concat must be [2, 3, 4, 5]; got {concat!r}"
                )
        return self.from_genotype(config.get("normal", ()), config.get("reduce", ()))

    def _check(self, kind: str, cell: Any) -> Cell:
        if not isinstance(cell, (list, tuple)) or len(cell) != PAIRS:
            raise OutOfSpaceError(f"a DARTS architecture needs the field {kind!r} with {PAIRS} pairs [operation, input]; got {cell!r}")
        for i, pair in enumerate(cell):
            where = f"{kind}[{i}] = {pair!r}"
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise OutOfSpaceError(f"{where} is no pair [operation, input]")
            op, source = pair
            if not isinstance(op, str) or op not in _INDEX:
                raise OutOfSpaceError(f"{where}: unknown operation; allowed: {', '.join(OPS)}")
            if _INDEX[op] not in self._ops:
                raise OutOfSpaceError(f"{where}: the operation 'none' is left out of this space; with_none=True admits it")
            if type(source) is not int or not 0 <= source < i // 2 + 2:
                raise OutOfSpaceError(f"{where}: the input of node {i // 2} must be an integer from 0 to {i // 2 + 1}")
            if i % 2 and source == cell[i - 1][1]:
                raise OutOfSpaceError(f"{where}: the two inputs of node {i // 2} must differ")
        return tuple((_INDEX[op], source) for op, source in cell)

    def sample(self, rng: np.random.Generator) -> Arch:
        """For each node two distinct inputs and two operations, all choices uniform."""
        inputs = np.tile(np.arange(NODES) + 2, 2)
        first = rng.integers(inputs)
        second = rng.integers(inputs - 1)
        second += second >= first
        sources = np.stack([first, second], axis=1).ravel().tolist()
        ops = rng.integers(self._ops.start, self._ops.stop, size=2 * PAIRS).tolist()
        pairs = tuple(zip(ops, sources, strict=True))
        return _arch(pairs[:PAIRS], pairs[PAIRS:])

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        """`rate` edits, rounded, at least one; more only where they gave back the same network.

        An edit picks one of the 16 pairs and replaces either its operation, by another one, or its input, by another one than
        its own and its sibling's; where there is no such input (node 0) it picks again. All choices are uniform.
        """
        cells, edits = list(_cells(arch)), max(1, round(rate))
        while True:
            kind, pair, what = (int(rng.integers(n)) for n in (len(KINDS), PAIRS, 2))
            changes = self._other_inputs(cells[kind], pair) if what else self._other_ops(cells[kind], pair)
            if not changes:
                continue
            cells[kind] = changes[rng.integers(len(changes))]
            edits -= 1
            if edits <= 0 and (child := _arch(*cells)) != arch:
                return child

    def neighbors(self, arch: Arch) -> list[Arch]:
        """Those with one other operation or input; isomorphic ones once. Cells and pairs in order, operations before inputs."""
        cells, found = _cells(arch), {arch.id: arch}
        for kind in range(len(KINDS)):
            for pair in range(PAIRS):
                for cell in self._other_ops(cells[kind], pair) + self._other_inputs(cells[kind], pair):
                    other = _arch(cells[0], cell) if kind else _arch(cell, cells[1])
                    found.setdefault(other.id, other)
        return list(found.values())[1:]

    def _other_ops(self, cell: Cell, pair: int) -> list[Cell]:
        old, source = cell[pair]
        return [(*cell[:pair], (op, source), *cell[pair + 1 :]) for op in self._ops if op != old]

    def _other_inputs(self, cell: Cell, pair: int) -> list[Cell]:
        op, old = cell[pair]
        sibling = cell[pair ^ 1][1]
        return [(*cell[:pair], (op, new), *cell[pair + 1 :]) for new in range(pair // 2 + 2) if new not in (old, sibling)]

    def paths(self, arch: Arch) -> tuple[int, ...]:
        """All paths from an input of a cell to one of its nodes: a block each for normal/0, normal/1, reduce/0, reduce/1.

        The index in a block is the sum of 8^i * (index of the i-th operation + 1), with i = 0 next to the input. `none` is an
        operation like any other.
        """
        blocks = [block for cell in _cells(arch) for block in _cell_paths(cell)]
        return tuple(sorted(b * _BLOCK + index for b, block in enumerate(blocks) for index, _ in block))

    def path_lengths(self) -> NDArray[np.int64]:
        """(18724,) from 1 to 4; 5 for index 0 of each block, which is no path, so that truncation to the shortest drops it."""
        return np.tile(np.repeat([NODES + 1, 1, 2, 3, 4], [len(OPS) ** length for length in range(NODES + 1)]), 4)

    def adjacency(self, arch: Arch) -> tuple[int, ...]:
        """(32,) operation and input of each pair, in the description that the id stands for."""
        return tuple(value for cell in _cells(arch) for pair in _canonical(cell) for value in pair)

    def from_adjacency(self, variables: Sequence[int]) -> Arch:
        pairs = [(OPS[op], source) for op, source in zip(variables[::2], variables[1::2], strict=True)]
        return self.from_genotype(pairs[:PAIRS], pairs[PAIRS:])

    def allowed(self, before: Sequence[int]) -> Sequence[int]:
        """Operations of the space, and inputs other than the sibling's."""
        pair, is_input = divmod(len(before) % (2 * PAIRS), 2)
        if not is_input:
            return self._ops
        return [source for source in range(pair // 2 + 2) if not (pair % 2 and source == before[-2])]

    def graph(self, arch: Arch) -> Graph:
        """V = 22: of the normal and then of the reduction cell its two inputs, its 8 operations in order and its output.

        An edge leads to an operation from the input that it reads, or from both operations whose sum it reads; every operation is
        on its way to the output. The cells are not connected. Which of the operations that nothing but the output reads are
        summed in one node is not told, as in the path encoding.
        """
        size = 2 + PAIRS + 1
        adjacency, operations = np.zeros((2 * size, 2 * size), dtype=np.int64), []
        for kind, cell in enumerate(_cells(arch)):
            block = adjacency[kind * size :, kind * size :]
            for pair, (_, source) in enumerate(cell):
                block[[source] if source < 2 else [2 * source - 2, 2 * source - 1], 2 + pair] = 1
            block[2 : size - 1, size - 1] = 1
            before, last, output = range(len(OPS) + 3 * kind, len(OPS) + 3 * kind + 3)
            operations += [before, last, *[op for op, _ in cell], output]
        return Graph(adjacency, np.array(operations, dtype=np.int64))

    def draw(self, arch: Arch) -> list[Drawing]:
        """The normal and the reduction cell as in the paper (figures 4 and 5): sums of features, operations on the edges."""
        ends = Node("c_k-2", "end"), Node("c_k-1", "end")
        nodes = (*ends, *(Node(str(node), "sum") for node in range(NODES)), Node("c_k", "end"))
        joined = [Edge(2 + node, 2 + NODES) for node in range(NODES)]
        return [
            Drawing(
                f"{'normal' if kind == 'normal' else 'reduction'} cell",
                nodes,
                (*(Edge(source, 2 + pair // 2, OPS[op]) for pair, (op, source) in enumerate(cell)), *joined),
            )
            for kind, cell in zip(KINDS, _cells(arch), strict=True)
        ]

    def operation_pairs(self, arch: Arch) -> NDArray[np.int64]:
        """(20, 8) for each cell, its two inputs and its operations before its operations."""
        counts = np.zeros((len(KINDS), 2 + len(OPS), len(OPS)), dtype=np.int64)
        for cell, table in zip(_cells(arch), counts, strict=True):
            for op, source in cell:
                for feeding in [source] if source < 2 else [2 + cell[pair][0] for pair in (2 * source - 4, 2 * source - 3)]:
                    table[feeding, op] += 1
        return counts.reshape(-1, len(OPS))

    def scalars(self, arch: Arch) -> tuple[float, ...]:
        """Log cost; then for each cell the share of each operation, and number, mean and greatest length of the paths."""
        values = list(super().scalars(arch))
        for cell in _cells(arch):
            ops = [op for op, _ in cell]
            values += [ops.count(op) / PAIRS for op in range(len(OPS))]
            lengths = [length for block in _cell_paths(cell) for _, length in block]
            values += [len(lengths) / 20, sum(lengths) / len(lengths) / NODES, max(lengths) / NODES]
        return tuple(values)

    def to_columns(self, arch: Arch) -> tuple[str, ...]:
        return (dumps({kind: arch[kind] for kind in KINDS}),)

    def cost(self, arch: Arch) -> Cost:
        """Cost of the CIFAR-10 network of the publication, without the auxiliary head; see `darts_cost`."""
        return darts_cost(arch, self.channels, self.layers)
