from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError
from raynas.spaces import make_space
from raynas.spaces.darts import GENOTYPES, OPS, DARTSSpace, darts_cost

SPACE = DARTSSpace(with_none=True)
PUBLISHED = {name: SPACE.from_genotype(**cells) for name, cells in GENOTYPES.items()}

GenotypeCell = list[tuple[str, int]]


@st.composite
def cells(draw: st.DrawFn, ops: tuple[str, ...] = OPS) -> GenotypeCell:
    pairs = []
    for node in range(4):
        for source in draw(st.permutations(range(node + 2)))[:2]:
            pairs.append((draw(st.sampled_from(ops)), source))
    return pairs


archs = st.builds(SPACE.from_genotype, cells(), cells())
seeds = st.integers(0, 2**32 - 1)


def edges(cell: GenotypeCell, number: tuple[int, ...] = (0, 1, 2, 3, 4, 5)) -> set[tuple[str, int, int]]:
    """The cell as a labelled graph (operation, from, to), its vertices renumbered."""
    return {(op, number[source], number[i // 2 + 2]) for i, (op, source) in enumerate(cell)}


def isomorphic(a: GenotypeCell, b: GenotypeCell) -> bool:
    return any(edges(a, (0, 1, *p)) == edges(b) for p in permutations(range(2, 6)))


def relabelled(cell: GenotypeCell, rng: np.random.Generator) -> GenotypeCell:
    """The same cell with its nodes in another random order that keeps inputs before users, and random orders of inputs."""
    orders = [p for p in permutations(range(2, 6)) if all(s < t for _, s, t in edges(cell, (0, 1, *p)))]
    graph = edges(cell, (0, 1, *orders[rng.integers(len(orders))]))
    result: GenotypeCell = []
    for node in range(2, 6):
        pairs = sorted((op, s) for op, s, t in graph if t == node)
        result += pairs[::-1] if rng.integers(2) else pairs
    return result


def test_the_registry_makes_the_space_with_its_options() -> None:
    space = make_space("darts", {"with_none": True, "channels": 16, "layers": 8})
    assert space.cost(PUBLISHED["BANANAS"]).parameters == 316_122


# Identity


@given(cells(), cells(), seeds)
def test_id_ignores_numbering_and_order_of_inputs(normal: GenotypeCell, reduce: GenotypeCell, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arch = SPACE.from_genotype(normal, reduce)
    other = SPACE.from_genotype(relabelled(normal, rng), relabelled(reduce, rng))
    assert other == arch
    assert SPACE.paths(other) == SPACE.paths(arch)
    assert SPACE.adjacency(other) == SPACE.adjacency(arch)
    assert SPACE.scalars(other) == pytest.approx(SPACE.scalars(arch))
    assert SPACE.cost(other) == SPACE.cost(arch)


@settings(deadline=None)
@given(cells(OPS[3:5]), seeds)
def test_equal_ids_are_isomorphic_cells(cell: GenotypeCell, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arch = SPACE.from_genotype(cell, cell)
    for other in SPACE.neighbors(SPACE.from_genotype(relabelled(cell, rng), cell)):
        assert (arch.id == other.id) == (isomorphic(cell, other["normal"]) and isomorphic(cell, other["reduce"]))
    for other in (SPACE.mutate(SPACE.mutate(arch, rng), rng) for _ in range(5)):
        assert (arch.id == other.id) == (isomorphic(cell, other["normal"]) and isomorphic(cell, other["reduce"]))


def test_ids_of_all_wirings_with_one_operation() -> None:
    wirings = [
        [("skip_connect", source) for pair in pairs for source in pair]
        for pairs in product(*(list(combinations(range(node + 2), 2)) for node in range(4)))
    ]
    ids = [SPACE.from_genotype(cell, wirings[0]).id for cell in wirings]
    assert len(wirings) == 180
    for (a, id_a), (b, id_b) in combinations(zip(wirings, ids, strict=True), 2):
        assert (id_a == id_b) == isomorphic(a, b)


def test_the_two_kinds_of_cell_are_not_interchangeable() -> None:
    cells_of = GENOTYPES["DARTS_V2"]
    assert SPACE.from_genotype(cells_of["reduce"], cells_of["normal"]) != PUBLISHED["DARTS_V2"]


@given(archs)
def test_round_trip_keeps_the_description(arch: Arch) -> None:
    again = SPACE.from_config(arch.to_config())
    assert again == arch
    assert again.spec == arch.spec
    assert SPACE.contains(arch)
    assert not SPACE.contains(Arch.make("darts", "x", **dict(arch.spec)))


# Paths and encodings

GOLDEN_PATHS = {  # distinct indices, from the authors' code (https://github.com/naszilla/bananas, darts/arch.py)
    "BANANAS": "4 5 6 36 52 4686 4718 4734 9364 9412 9420 9796 9804 14044 14048 14092 14104 14476 14488",
    "DARTS_V1": "4 5 37 4686 4718 9364 9365 9396 14045 14077",
    "DARTS_V2": "4 5 61 4686 4742 9364 9396 14045 14077",
}


@pytest.mark.parametrize("name", GOLDEN_PATHS)
def test_golden_paths(name: str) -> None:
    assert sorted(set(SPACE.paths(PUBLISHED[name]))) == [int(index) for index in GOLDEN_PATHS[name].split()]


@given(archs)
def test_paths_equal_a_walk_back_from_each_node(arch: Arch) -> None:
    def walk(cell: GenotypeCell, vertex: int) -> list[tuple[int, list[str]]]:
        """(input, operations) of every path that ends at the vertex."""
        if vertex < 2:
            return [(vertex, [])]
        pairs = cell[2 * vertex - 4 : 2 * vertex - 2]
        return [(start, [*ops, op]) for op, source in pairs for start, ops in walk(cell, source)]

    expected = []
    lengths = []
    for k, kind in enumerate(("normal", "reduce")):
        for start, ops in (path for node in range(2, 6) for path in walk(arch[kind], node)):
            expected.append((2 * k + start) * 4681 + sum(8**i * (OPS.index(op) + 1) for i, op in enumerate(ops)))
            lengths.append(len(ops))
    assert SPACE.paths(arch) == tuple(sorted(expected))
    assert sorted(SPACE.path_lengths()[expected]) == sorted(lengths)


def test_truncation_keeps_exactly_the_paths_of_at_most_two_operations() -> None:
    lengths = SPACE.path_lengths()
    assert lengths.shape == (SPACE.num_paths,)
    assert (lengths <= 2).sum() == SPACE.truncation
    assert lengths[[0, 1, 8, 9, 72, 73, 584, 585, 4680]].tolist() == [5, 1, 1, 2, 2, 3, 3, 4, 4]


@given(archs)
def test_adjacency_describes_the_architecture(arch: Arch) -> None:
    values = SPACE.adjacency(arch)
    assert len(values) == len(SPACE.adjacency_sizes) == 32
    assert all(0 <= value < size for value, size in zip(values, SPACE.adjacency_sizes, strict=True))
    pairs = [(OPS[op], source) for op, source in zip(values[::2], values[1::2], strict=True)]
    assert SPACE.from_genotype(pairs[:8], pairs[8:]) == arch


@given(archs)
def test_scalars_are_of_order_one(arch: Arch) -> None:
    scalars = SPACE.scalars(arch)
    assert len(scalars) == 24
    assert np.abs(scalars).max() < 2


# Moves


@given(st.booleans(), seeds, st.floats(0, 4))
def test_samples_and_mutants_stay_in_the_space(with_none: bool, seed: int, rate: float) -> None:
    space = DARTSSpace(with_none)
    rng = np.random.default_rng(seed)
    arch = space.sample(rng)
    assert space.contains(arch)
    assert arch.spec == space.sample(np.random.default_rng(seed)).spec
    child = space.mutate(arch, rng, rate)
    assert space.contains(child)
    assert child != arch


@settings(deadline=None)
@given(archs, seeds)
def test_a_mutation_of_rate_one_is_a_neighbor(arch: Arch, seed: int) -> None:
    changed = 0
    child = SPACE.mutate(arch, np.random.default_rng(seed))
    for kind in ("normal", "reduce"):
        changed += sum(a != b for a, b in zip(arch[kind], child[kind], strict=True))
    assert child in SPACE.neighbors(arch) or changed > 1  # more than one edit only where one gave back the same network


def test_mutation_reaches_every_pair_and_every_neighbor() -> None:
    rng = np.random.default_rng(0)
    arch = PUBLISHED["DARTS_V2"]
    assert {SPACE.mutate(arch, rng).id for _ in range(6000)} >= {other.id for other in SPACE.neighbors(arch)}


def test_samples_cover_operations_and_inputs_evenly() -> None:
    rng = np.random.default_rng(0)
    space = DARTSSpace()
    draws = [space.sample(rng) for _ in range(3000)]
    ops = [op for arch in draws for op, _ in arch["normal"] + arch["reduce"]]
    assert sorted(set(ops)) == sorted(OPS[1:])
    assert all(abs(ops.count(op) / len(ops) - 1 / 7) < 0.008 for op in OPS[1:])  # 5 standard errors
    last = [source for arch in draws for _, source in arch["reduce"][6:]]
    assert all(abs(last.count(source) / len(last) - 1 / 5) < 0.026 for source in range(5))


@pytest.mark.parametrize(("with_none", "count"), [(False, 96 + 24), (True, 112 + 24)])
def test_number_of_neighbors_of_an_asymmetric_cell(with_none: bool, count: int) -> None:
    cell = [("sep_conv_3x3", 0), ("skip_connect", 1)]
    for node, op in enumerate(OPS[5:8]):
        cell += [(op, node + 2), (op, 0)]
    space = DARTSSpace(with_none)
    assert len(space.neighbors(space.from_genotype(cell, cell))) == count


@settings(deadline=None)
@given(st.booleans(), seeds)
def test_neighbors_are_distinct_and_in_the_space(with_none: bool, seed: int) -> None:
    space = DARTSSpace(with_none)
    arch = space.sample(np.random.default_rng(seed))
    neighbors = space.neighbors(arch)
    assert len({other.id for other in neighbors} | {arch.id}) == len(neighbors) + 1
    assert neighbors == space.neighbors(arch)
    for other in neighbors:
        assert space.contains(other)
        assert sum(a != b for kind in ("normal", "reduce") for a, b in zip(arch[kind], other[kind], strict=True)) == 1


# Cost

GOLDEN_PARAMETERS = {  # C = 36, L = 20; the same with auxiliary head; C = 16, L = 8; C = 16, L = 20
    "BANANAS": (3_583_054, 4_059_480, 316_122, 797_274),
    "DARTS_V1": (3_169_414, 3_645_840, 232_890, 671_034),
    "DARTS_V2": (3_349_342, 3_825_768, 246_106, 710_682),
    "ASHA200": (2_243_206, 2_719_632, 189_754, 469_306),
}


@pytest.mark.parametrize("name", GOLDEN_PARAMETERS)
def test_golden_parameters(name: str) -> None:
    arch = PUBLISHED[name]
    costs = darts_cost(arch), darts_cost(arch, auxiliary=True), darts_cost(arch, 16, 8), darts_cost(arch, 16, 20)
    assert tuple(cost.parameters for cost in costs) == GOLDEN_PARAMETERS[name]
    assert SPACE.cost(arch) == costs[0]


class Account:
    """Counts a network layer by layer, every layer given by its channels and the height and width of its output."""

    def __init__(self) -> None:
        self.parameters = self.flops = 0

    def conv(self, inputs: int, outputs: int, kernel: int, size: int, groups: int = 1) -> None:
        self.parameters += inputs // groups * outputs * kernel**2
        self.flops += inputs // groups * outputs * kernel**2 * size**2

    def norm(self, channels: int, size: int) -> None:
        self.parameters += 2 * channels
        self.flops += 2 * channels * size**2

    def linear(self, inputs: int, outputs: int) -> None:
        self.parameters += inputs * outputs + outputs
        self.flops += inputs * outputs

    def factorized_reduce(self, inputs: int, outputs: int, size: int) -> None:
        self.conv(inputs, outputs // 2, 1, size)
        self.conv(inputs, outputs // 2, 1, size)
        self.norm(outputs, size)

    def operation(self, op: str, channels: int, stride: int, size: int) -> None:
        if op == "skip_connect" and stride == 2:
            self.factorized_reduce(channels, channels, size)
        for _ in range({"sep": 2, "dil": 1}.get(op[:3], 0)):
            self.conv(channels, channels, int(op[-1]), size, groups=channels)
            self.conv(channels, channels, 1, size)
            self.norm(channels, size)


def slow_cost(arch: Arch, channels: int, layers: int, classes: int, image: int, auxiliary: bool) -> tuple[int, int]:
    account = Account()
    account.conv(3, 3 * channels, 3, image)
    account.norm(3 * channels, image)
    before = last = 3 * channels
    size, reduction_before = image, False
    for layer in range(layers):
        reduction = layer == layers // 3 or layer == 2 * layers // 3
        if reduction:
            channels *= 2
        if reduction_before:
            account.factorized_reduce(before, channels, size)
        else:
            account.conv(before, channels, 1, size)
            account.norm(channels, size)
        account.conv(last, channels, 1, size)
        account.norm(channels, size)
        if reduction:
            size //= 2
        for op, source in arch["reduce" if reduction else "normal"]:
            account.operation(op, channels, 2 if reduction and source < 2 else 1, size)
        before, last, reduction_before = last, 4 * channels, reduction
        if auxiliary and layer == 2 * layers // 3:
            account.conv(last, 128, 1, 2)
            account.norm(128, 2)
            account.conv(128, 768, 2, 1)
            account.norm(768, 1)
            account.linear(768, classes)
    account.linear(last, classes)
    return account.parameters, account.flops


@given(archs, st.integers(1, 40), st.integers(1, 24), st.sampled_from([10, 100]), st.sampled_from([8, 32, 40]), st.booleans())
def test_cost_equals_a_layer_by_layer_account(arch: Arch, channels: int, layers: int, classes: int, image: int, auxiliary: bool) -> None:
    auxiliary = auxiliary and image >= 32 and layers > 1  # elsewhere the feature map does not fit the head
    assert darts_cost(arch, channels, layers, classes, image, auxiliary) == slow_cost(arch, channels, layers, classes, image, auxiliary)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 0}, "counts of at least 1"),
        ({"layers": 0}, "counts of at least 1"),
        ({"image": 30}, "multiple of 4"),
        ({"image": 64, "auxiliary": True}, "feature map of 8x8 to 10x10, not 16x16"),
    ],
)
def test_cost_rejects_what_no_network_has(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        darts_cost(PUBLISHED["DARTS_V2"], **options)


# Errors


def replaced(kind: str, index: int, pair: object) -> dict[str, object]:
    config: dict[str, Any] = {k: list(v) for k, v in GENOTYPES["DARTS_V2"].items()}
    config[kind][index] = pair
    return config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "needs the field 'normal' with 8 pairs"),
        ({**GENOTYPES["DARTS_V2"], "reduce": []}, "needs the field 'reduce' with 8 pairs"),
        ({**GENOTYPES["DARTS_V2"], "space": "nasbench201"}, "does not belong to 'darts'"),
        ({**GENOTYPES["DARTS_V2"], "normal_concat": [4, 5]}, "normal_concat must be"),
        (GENOTYPES["BANANAS"], r"reduce\[3\] = \('none', 1\): .* with_none=True admits it"),
        (replaced("normal", 2, "skip_connect"), r"normal\[2\] = 'skip_connect' is no pair"),
        (replaced("normal", 2, ("conv", 0)), "unknown operation; allowed: none, max_pool_3x3"),
        (replaced("normal", 2, (["skip_connect"], 0)), "unknown operation"),
        (replaced("reduce", 2, ("skip_connect", 3)), "the input of node 1 must be an integer from 0 to 2"),
        (replaced("reduce", 2, ("skip_connect", True)), "the input of node 1 must be an integer"),
        (replaced("reduce", 3, ("skip_connect", 2)), "the two inputs of node 1 must differ"),
    ],
)
def test_what_is_outside_raises_one_clear_line(config: dict[str, Any], words: str) -> None:
    with pytest.raises(OutOfSpaceError, match=words) as error:
        DARTSSpace().from_config(config)
    assert "\n" not in str(error.value)


def test_none_belongs_to_the_space_only_on_request() -> None:
    assert SPACE.contains(PUBLISHED["BANANAS"])
    assert not DARTSSpace().contains(PUBLISHED["BANANAS"])
    assert DARTSSpace().contains(PUBLISHED["DARTS_V2"])


def test_a_published_genotype_with_its_concatenation_is_read() -> None:
    config = {**GENOTYPES["DARTS_V1"], "normal_concat": range(2, 6), "reduce_concat": [2, 3, 4, 5]}
    assert SPACE.from_config(config) == PUBLISHED["DARTS_V1"]
