"""NAS-Bench-101: published vectors, statistics of the samplers, properties, and the table itself. V: vertices of a cell."""

from collections import Counter
from contextlib import suppress
from itertools import combinations, pairwise, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.spaces.nasbench101 import OPS, NASBench101Space, module_hash, prune, vertex_channels
from raynas.spaces.nasbench101_cells import all_cells
from raynas.spaces.nasbench101_graph import unpack_ops, unpack_rows

C3, C1, MP = OPS
SPACE = NASBench101Space()
UNIFORM = NASBench101Space("uniform")
CELLS_BY_VERTICES = {2: 1, 3: 6, 4: 84, 5: 2441, 6: 62_010, 7: 359_082}  # counted in the published table


def matrix_of(edges: str, size: int) -> list[list[int]]:
    """(size, size) matrix of edges written as "01 12": one pair of vertices each."""
    matrix = [[0] * size for _ in range(size)]
    for edge in edges.split():
        matrix[int(edge[0])][int(edge[1])] = 1
    return matrix


def cell(edges: str, *interior: str) -> Arch:
    return SPACE.make(matrix_of(edges, len(interior) + 2), ["input", *interior, "output"])


def archs() -> st.SearchStrategy[Arch]:
    """Cells of both samplers: mostly small ones and mostly large ones."""
    return st.builds(
        lambda space, seed: space.sample(np.random.default_rng(seed)), st.sampled_from([SPACE, UNIFORM]), st.integers(0, 2**32)
    )


def relabelled(arch: Arch, rng: np.random.Generator) -> tuple[Any, list[str]]:
    """Matrix and operations of the same cell with its vertices in another topological order, drawn until one fits."""
    matrix, size = np.array(arch["adjacency"]), len(arch["operations"])
    while True:
        order = [0, *(1 + rng.permutation(size - 2)), size - 1]
        moved = matrix[np.ix_(order, order)]
        if not np.tril(moved).any():
            return moved, [arch["operations"][i] for i in order]


# edges, operations, paths, parameters, hash; computed with the reference implementations
GOLDEN: list[tuple[str, tuple[str, ...], tuple[int, ...], int, str]] = [
    ("01 02 03 05 16 26 34 46 56", (C1, C3, C3, C3, MP), (1, 2, 3, 4), 2_694_282, "28cfc7874f6d200472e1a9dcd8650aa0"),  # Inception-like
    ("01", (), (0,), 882_570, "043721b9c7fe8c5fad811d47d83132ec"),
    ("01 12", (C3,), (1,), 10_177_674, "b49ac8c578b4561d79ac7087988f1c61"),
    ("01 12", (C1,), (2,), 1_920_138, "d1269d9156ddc027c40473008192958a"),
    ("01 12", (MP,), (3,), 882_570, "53cee42601ad14d661bb6878031d6acb"),
    ("01 12 23 03", (C3, C3), (0, 4), 20_346_506, "b5fb4f6193360330b6ff6a52cbf0cad7"),
    ("01 12 13 14 15 26 36 46 56", (MP,) * 5, (12,) * 4, 227_274, "a58a8868dfd92a0ff18209928dfd1281"),  # fewest parameters of all
    ("01 12 23 34 45 56 02 03 06", (C3,) * 5, (0, 13, 40, 121), 49_979_274, "04d8dabb4cd3412530e3e3c6bb36dab4"),  # most
]


@pytest.mark.parametrize(("edges", "ops", "paths", "parameters", "key"), GOLDEN)
def test_published_cells(edges: str, ops: tuple[str, ...], paths: tuple[int, ...], parameters: int, key: str) -> None:
    arch = cell(edges, *ops)
    assert (SPACE.paths(arch), SPACE.cost(arch).parameters, arch.id) == (paths, parameters, key)
    assert module_hash(arch["adjacency"], arch["operations"]) == key
    assert SPACE.contains(arch)


@pytest.mark.parametrize(
    ("edges", "size", "kept"),
    [
        ("01 13", 4, (1, 2, 4)),  # vertex 2 has no edge
        ("01 02 23", 4, (1, 3, 4)),  # vertex 1 leads nowhere
        ("02 13 23", 4, (1, 3, 4)),  # vertex 1 is reached from nowhere
        ("01 12 23", 4, (1, 2, 3, 4)),
        ("01 12", 4, None),  # the output is reached from nowhere
        ("12 23", 4, None),  # the input leads nowhere
    ],
)
def test_prune(edges: str, size: int, kept: tuple[int, ...] | None) -> None:
    pruned = prune(matrix_of(edges, size), list(range(1, size + 1)))
    if kept is None:
        assert pruned is None
    else:
        assert pruned is not None
        assert pruned[1] == kept
        assert len(pruned[0]) == len(pruned[0][0]) == len(kept)


@pytest.mark.parametrize(
    ("channels", "edges", "expected"),
    [
        ((8, 15), "01 02 13 23", [8, 8, 7, 15]),
        ((8, 8), "01 02 03 14 24 34", [8, 3, 3, 2, 8]),
        ((8, 15), "01 02 03 14 24 34", [8, 5, 5, 5, 15]),
        ((8, 9), "01 12 13 24 34", [8, 5, 5, 4, 9]),
        ((8, 15), "01 03 12 14 23 34", [8, 8, 7, 7, 15]),
        ((16, 8), "01 12 23", [16, 8, 8, 8]),
        ((16, 8), "01", [16, 8]),
        ((8, 15), "01 02 13 23 24 34", [8, 7, 8, 7, 15]),  # vertex 1 has its only successor's
        ((8, 9), "01 12 02", [8, 9, 9]),  # the direct edge takes no share
    ],
)
def test_vertex_channels(channels: tuple[int, int], edges: str, expected: list[int]) -> None:
    assert vertex_channels(*channels, matrix_of(edges, len(expected))) == expected


def test_table_sample(shared_data: Path) -> None:
    table = pq.read_table(
        shared_data / "nasbench101_test108.parquet", columns=["hash", "adjacency", "operations", "trainable_parameters", "macs_thop"]
    )
    rows = table.take(np.random.default_rng(0).choice(len(table), 3000, replace=False)).to_pylist()
    assert len(table) == SPACE.size
    for row in rows:
        arch = SPACE.from_strings(row["adjacency"], row["operations"])
        assert (arch.id, *SPACE.cost(arch)) == (row["hash"], row["trainable_parameters"], row["macs_thop"])
        assert "".join(str(entry) for line in arch["adjacency"] for entry in line) == row["adjacency"]
        assert ",".join(arch["operations"]) == row["operations"]


# --- samplers ---


def test_share_of_valid_draws() -> None:
    rng, valid = np.random.default_rng(0), 0
    for _ in range(4000):
        matrix = np.triu(rng.integers(2, size=(7, 7)), 1)
        with suppress(OutOfSpaceError):
            SPACE.make(matrix, ["input", *rng.choice(OPS, 5), "output"])
            valid += 1
    assert valid / 4000 == pytest.approx(0.733, abs=0.03)


def test_reference_sampler_has_the_statistics_of_the_original() -> None:
    rng = np.random.default_rng(1)
    sampled = [SPACE.sample(rng) for _ in range(4000)]
    lengths = SPACE.path_lengths()
    distinct = [sorted(set(SPACE.paths(arch))) for arch in sampled]
    assert np.mean([len(paths) for paths in distinct]) == pytest.approx(2.64, abs=0.1)
    assert np.mean([np.sum(np.array(paths) < SPACE.truncation) for paths in distinct]) == pytest.approx(2.61, abs=0.1)
    present = np.bincount(lengths[np.concatenate(distinct)], minlength=6) / 4000
    assert present == pytest.approx([0.526, 1.004, 0.801, 0.277, 0.033, 0.0004], abs=0.05)
    assert np.mean([np.sum(arch["adjacency"]) for arch in sampled]) == pytest.approx(4.97, abs=0.1)
    shares = np.bincount([len(arch["operations"]) for arch in sampled], minlength=8)[2:] / 4000
    assert shares == pytest.approx(np.array([1404, 2957, 4072, 4409, 1785, 36]) / 14_663, abs=0.03)


def test_all_cells_number_as_in_the_table() -> None:
    cells = all_cells()
    counts: Counter[int] = Counter()
    for (vertices, _), labels in zip(cells.graphs, cells.labels, strict=True):
        counts[vertices] += len(labels)
    assert counts == CELLS_BY_VERTICES
    assert len(cells) == sum(CELLS_BY_VERTICES.values()) == UNIFORM.size == 423_624


@pytest.mark.slow
def test_enumeration_yields_each_cell_of_the_table_once(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "nasbench101_test108.parquet", columns=["hash", "operations"])
    sizes = np.char.count(np.array(table["operations"].to_pylist()), ",") + 1
    hashes = np.array(table["hash"].to_pylist())
    small = sum(count for vertices, count in CELLS_BY_VERTICES.items() if vertices < 7)
    archs = SPACE.enumerate()
    ids = [next(archs).id for _ in range(small)]
    assert sorted(ids) == sorted(hashes[sizes < 7])
    large = [module_hash(*numbered(index)) for index in range(small, 423_624, 29)]  # all of them: benchmarks/nasbench101_table.py
    assert len(set(large)) == len(large)
    assert set(large) <= set(hashes[sizes == 7])


def numbered(index: int) -> tuple[list[list[int]], list[str]]:
    vertices, edges, label = all_cells()[index]
    matrix = [[row >> w & 1 for w in range(vertices)] for row in unpack_rows(edges, vertices)]
    return matrix, ["input", *[OPS[code] for code in unpack_ops(label, vertices - 2)], "output"]


def test_uniform_sampler_is_uniform() -> None:
    rng, draws = np.random.default_rng(2), 6000
    counts = Counter(len(UNIFORM.sample(rng)["operations"]) for _ in range(draws))
    expected = {vertices: count * draws / 423_624 for vertices, count in CELLS_BY_VERTICES.items() if vertices >= 5}
    statistic = sum((counts[vertices] - mean) ** 2 / mean for vertices, mean in expected.items())
    assert statistic < 13.8  # 99.9 % of chi-square with 2 degrees of freedom; cells of 2 to 4 vertices are too rare (1.3 expected)
    assert sum(counts[vertices] for vertices in (2, 3, 4)) < 8


@pytest.mark.parametrize("space", [SPACE, UNIFORM])
def test_one_seed_one_sequence(space: NASBench101Space) -> None:
    def sequence() -> list[dict[str, Any]]:
        rng = np.random.default_rng(3)
        sampled = [space.sample(rng) for _ in range(5)]
        return [arch.to_config() for arch in sampled + [space.mutate(arch, rng) for arch in sampled]]

    assert sequence() == sequence()


# --- properties ---


@settings(deadline=None)
@given(archs())
def test_config_round_trip(arch: Arch) -> None:
    again = SPACE.from_config(arch.to_config())
    assert again == arch
    assert again.spec == arch.spec
    assert SPACE.contains(arch)
    assert not SPACE.contains(Arch(arch.space, "0" * 32, arch.spec))


@settings(deadline=None)
@given(archs(), st.integers(0, 2**32))
def test_relabelling_keeps_the_cell(arch: Arch, seed: int) -> None:
    matrix, ops = relabelled(arch, np.random.default_rng(seed))
    assert module_hash(matrix, ops) == arch.id
    assert SPACE.make(matrix, ops).spec == arch.spec  # so that cost and encodings are the same, too


@settings(deadline=None)
@given(archs(), st.integers(0, 2**32), st.sampled_from([0.5, 1.0, 2.0, 30.0]))
def test_mutants_are_in_the_space(arch: Arch, seed: int, rate: float) -> None:
    assert SPACE.contains(SPACE.mutate(arch, np.random.default_rng(seed), rate))


@settings(deadline=None)
@given(archs(), st.integers(0, 2**32))
def test_mutation_embeds_without_changing(arch: Arch, seed: int) -> None:
    assert SPACE.mutate(arch, np.random.default_rng(seed), rate=0.0) == arch


def test_mutation_changes_about_as_often_as_asked() -> None:
    rng = np.random.default_rng(4)
    arch = cell(*GOLDEN[0][:1], *GOLDEN[0][1])  # 7 vertices, 9 edges
    same = np.mean([SPACE.mutate(arch, rng) == arch for _ in range(2000)])
    assert 0.118 < same < 0.35  # (20/21)^21 (4/5)^5 = 0.118, more because invalid children (a tenth edge) are drawn again
    sizes = {len(SPACE.mutate(cell("01"), rng)["operations"]) for _ in range(300)}
    assert sizes >= {2, 3}  # one flip can use an unused vertex


def brute_force_neighbors(arch: Arch) -> set[str]:
    """Ids of all edited graphs for which some order of the interior is upper triangular and in the space."""
    matrix, ops = np.array(arch["adjacency"]), list(arch["operations"])
    size = len(ops)
    graphs = [(matrix, [*ops[:v], op, *ops[v + 1 :]]) for v in range(1, size - 1) for op in OPS]
    for v, w in product(range(size), repeat=2):
        toggled = matrix.copy()
        toggled[v, w] ^= 1
        graphs.append((toggled, ops))
        larger = np.zeros((size + 1, size + 1), dtype=int)
        old = [*range(size - 1), size]  # the new vertex is the last one before the output
        larger[np.ix_(old, old)] = matrix
        larger[old[v], size - 1] = larger[size - 1, old[w]] = 1
        graphs += [(larger, [*ops[:-1], op, "output"]) for op in OPS]
    ids = set()
    for graph, names in graphs:
        for inner in permutations(range(1, len(names) - 1)):
            order = [0, *inner, len(names) - 1]
            moved = graph[np.ix_(order, order)]
            if not np.tril(moved).any():
                with suppress(OutOfSpaceError):
                    ids.add(SPACE.make(moved, [names[i] for i in order]).id)
                break
    return ids - {arch.id}


@pytest.mark.parametrize(
    "edges", ["01", "01 12", "01 02 13 23", "01 02 13 24 34", "01 02 13 24 35 45", "01 12 23 34 45 05", "01 02 03 14 24 34"]
)
def test_neighbors_equal_brute_force(edges: str) -> None:
    size = 1 + max(int(edge[1]) for edge in edges.split())
    arch = cell(edges, *[OPS[i % 3] for i in range(size - 2)])
    assert {neighbor.id for neighbor in SPACE.neighbors(arch)} == brute_force_neighbors(arch)


@settings(max_examples=10, deadline=None)
@given(archs())
def test_neighbors_equal_brute_force_at_random(arch: Arch) -> None:
    assert {neighbor.id for neighbor in SPACE.neighbors(arch)} == brute_force_neighbors(arch)


@settings(max_examples=20, deadline=None)
@given(archs())
def test_neighbors_are_valid_and_unique_and_in_one_order(arch: Arch) -> None:
    found = SPACE.neighbors(arch)
    ids = [neighbor.id for neighbor in found]
    assert len(set(ids)) == len(ids)
    assert arch.id not in ids
    assert all(SPACE.contains(neighbor) for neighbor in found)
    assert ids == sorted(ids)
    assert all(arch in SPACE.neighbors(neighbor) for neighbor in found if len(neighbor["operations"]) == len(arch["operations"]))


@settings(deadline=None)
@given(archs())
def test_paths_equal_brute_force(arch: Arch) -> None:
    matrix, ops, found = arch["adjacency"], arch["operations"], []
    for length in range(len(ops) - 1):
        for inner in combinations(range(1, len(ops) - 1), length):
            steps = [0, *inner, len(ops) - 1]
            if all(matrix[v][w] for v, w in pairwise(steps)):
                found.append(sum(3**i * (OPS.index(ops[v]) + 1) for i, v in enumerate(inner)))
    assert SPACE.paths(arch) == tuple(sorted(found))


def test_path_lengths() -> None:
    lengths = SPACE.path_lengths()
    assert lengths.shape == (SPACE.num_paths,) == (364,)
    assert np.bincount(lengths).tolist() == [1, 3, 9, 27, 81, 243]
    assert np.all(np.diff(lengths) >= 0)
    assert np.count_nonzero(lengths <= 3) == SPACE.truncation


@settings(deadline=None)
@given(archs())
def test_adjacency_describes_the_cell(arch: Arch) -> None:
    values = SPACE.adjacency(arch)
    assert len(values) == len(SPACE.adjacency_sizes) == 26
    assert all(0 <= value < size for value, size in zip(values, SPACE.adjacency_sizes, strict=True))
    matrix = np.zeros((7, 7), dtype=int)
    matrix[np.triu_indices(7, 1)] = values[:21]
    assert SPACE.make(matrix, ["input", *[OPS[code] for code in values[21:]], "output"]) == arch


def test_scalars_of_a_cell() -> None:
    arch = cell("01 12 23 34 45 56 02 03 06", C3, C3, MP, C3, C1)
    parameters, flops, *rest = SPACE.scalars(arch)
    assert parameters == pytest.approx(np.log10(SPACE.cost(arch).parameters) - 6.5)
    assert flops == pytest.approx(np.log10(SPACE.cost(arch).flops) - 8.5)
    assert rest == pytest.approx([9 / 9, 7 / 7, 3 / 5, 1 / 5, 1 / 5, 5 / 5, 0, 3 / 5, 1, 2 / 5, 4 / 5])


@settings(deadline=None)
@given(archs())
def test_scalars_are_of_order_one(arch: Arch) -> None:
    values = SPACE.scalars(arch)
    assert len(values) == 13
    assert max(abs(value) for value in values) <= 1.5
