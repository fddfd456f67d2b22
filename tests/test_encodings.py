"""Architectures as numbers: golden path indices, truncation, worked examples, and the slow obvious encoder beside the fast one."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError, UnknownNameError
from raynas.model.encodings import (
    ENCODINGS,
    encode,
    encode_again,
    feature_weights,
    kept_by_frequency,
    kept_by_length,
    parse_encoding,
    unweighted,
)
from raynas.spaces import SearchSpace
from raynas.spaces.darts import GENOTYPES, DARTSSpace
from raynas.spaces.darts import OPS as DARTS_OPS
from raynas.spaces.nasbench101 import NASBench101Space
from raynas.spaces.nasbench201 import NASBench201Space

NB101, NB201, DARTS = NASBench101Space(), NASBench201Space(), DARTSSpace(with_none=True)
SPACES: dict[str, SearchSpace] = {"nasbench101": NB101, "nasbench201": NB201, "darts": DARTS}
few = settings(max_examples=10, deadline=None)  # the first example may fill caches
BLOCK = 4681  # path indices of each of the four blocks of DARTS: normal/0, normal/1, reduce/0, reduce/1

C3, C1, POOL = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"


def cell(ops: Sequence[str], *edges: tuple[int, int]) -> Arch:
    """The NAS-Bench-101 cell with these interior operations and edges."""
    matrix = np.zeros((len(ops) + 2, len(ops) + 2), dtype=int)
    for edge in edges:
        matrix[edge] = 1
    return NB101.make(matrix, ["input", *ops, "output"])


# Computed by the encoder of https://github.com/naszilla/naszilla, whose order of operations is 3x3, 1x1, pool.
GOLDEN_101 = {
    "the example of the benchmark's README": (
        cell([C1, C3, C3, C3, POOL], (0, 1), (0, 2), (0, 3), (0, 5), (1, 6), (2, 6), (3, 4), (4, 6), (5, 6)),
        {1: 1, 2: 1, 3: 1, 4: 1},
    ),
    "input to output": (cell([], (0, 1)), {0: 1}),
    "one 3x3": (cell([C3], (0, 1), (1, 2)), {1: 1}),
    "one 1x1": (cell([C1], (0, 1), (1, 2)), {2: 1}),
    "one pool": (cell([POOL], (0, 1), (1, 2)), {3: 1}),
    "two 3x3 and a shortcut": (cell([C3, C3], (0, 1), (1, 2), (2, 3), (0, 3)), {0: 1, 4: 1}),
    "a pool before four pools": (cell([POOL] * 5, (0, 1), *[(1, v) for v in (2, 3, 4, 5)], *[(v, 6) for v in (2, 3, 4, 5)]), {12: 4}),
    "five 3x3 and three shortcuts": (
        cell([C3] * 5, *[(v, v + 1) for v in range(6)], (0, 2), (0, 3), (0, 6)),
        {0: 1, 13 + 27: 1, 121: 1, 13: 1},
    ),
}

# Computed by the encoder of https://github.com/naszilla/bananas (darts/arch.py).
GOLDEN_DARTS = {
    "BANANAS": [4, 5, 6, 36, 52, 4686, 4718, 4734, 9364, 9412, 9420, 9796, 9804, 14044, 14048, 14092, 14104, 14476, 14488],
    "DARTS_V1": [4, 5, 37, 4686, 4718, 9364, 9365, 9396, 14045, 14077],
    "DARTS_V2": [4, 5, 61, 4686, 4742, 9364, 9396, 14045, 14077],
}


def archs(space: SearchSpace, count: int = 8) -> st.SearchStrategy[list[Arch]]:
    seeds = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=count)
    return st.builds(lambda drawn: [space.sample(np.random.default_rng(seed)) for seed in drawn], seeds)


@pytest.mark.parametrize("name", GOLDEN_101)
def test_golden_paths_of_nasbench101(name: str) -> None:
    arch, expected = GOLDEN_101[name]
    counts = encode("path_counts", NB101, [arch])[0]
    assert counts.shape == (364,)
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == expected
    np.testing.assert_array_equal(encode("path", NB101, [arch])[0], counts > 0)


@pytest.mark.parametrize("name", GOLDEN_DARTS)
def test_golden_paths_of_darts(name: str) -> None:
    encoded = encode("path", DARTS, [DARTS.from_genotype(**GENOTYPES[name])])[0]
    assert encoded.shape == (18_724,)
    assert np.flatnonzero(encoded).tolist() == GOLDEN_DARTS[name]


def test_golden_paths_of_nasbench201() -> None:
    arch = NB201.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|")
    expected = [
        3,  # 0-3: none (3)
        5 + 2 + 5 * 0,  # 0-1-3: conv3x3 (2), pool (0)
        5 + 1 + 5 * 2,  # 0-2-3: conv1x1 (1), conv3x3 (2)
        30 + 2 + 5 * 4 + 25 * 2,  # 0-1-2-3: conv3x3 (2), skip (4), conv3x3 (2)
    ]
    assert np.flatnonzero(encode("path", NB201, [arch])[0]).tolist() == expected
    # Both paths of length two may be the same one: 0-1-3 and 0-2-3 are pool, pool.
    counts = encode("path_counts", NB201, [NB201.make(["avg_pool_3x3"] * 6)])[0]
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == {0: 1, 5: 2, 30: 1}


# -- truncation ----------------------------------------------------------------------------------------------------------


def test_the_shortest_paths_are_kept() -> None:
    np.testing.assert_array_equal(kept_by_length(NB101), np.arange(40))  # 1 + 3 + 9 + 27: at most three operations
    np.testing.assert_array_equal(kept_by_length(NB201), np.arange(30))  # 5 + 25: at most two operations
    np.testing.assert_array_equal(kept_by_length(NB101, 13), np.arange(13))
    assert len(kept_by_length(NB201, 1000)) == 155  # there are no more


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("cutoff", [1, 7, 100])
def test_kept_by_length_against_sorting_by_hand(name: str, cutoff: int) -> None:
    space = SPACES[name]
    lengths = space.path_lengths().tolist()
    slow = sorted(range(space.num_paths), key=lambda path: (lengths[path], path))[:cutoff]
    assert kept_by_length(space, cutoff).tolist() == sorted(slow)


def test_darts_keeps_paths_of_all_four_blocks() -> None:
    # Reference code that takes the first indices, path_encoding[:100], keeps paths of the first input of the normal cell only.
    shortest = kept_by_length(DARTS)
    assert np.bincount(shortest // BLOCK).tolist() == [8 + 64] * 4  # every path of one or two operations, from each input of each cell
    for block in range(4):
        assert (shortest[shortest // BLOCK == block] - block * BLOCK).tolist() == list(range(1, 8 + 64 + 1))  # index 0 is no path
    assert set(kept_by_frequency(DARTS, 100) // BLOCK) == {0, 1, 2, 3}
    assert set(kept_by_length(DARTS, 100) // BLOCK) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", SPACES)
def test_the_frequent_paths_are_kept(name: str) -> None:
    space, cutoff = SPACES[name], 25
    rng = np.random.default_rng(0)
    counted = Counter(path for _ in range(2000) for path in set(space.paths(space.sample(rng))))
    lengths = space.path_lengths().tolist()
    slow = sorted(range(space.num_paths), key=lambda path: (-counted[path], lengths[path], path))[:cutoff]
    kept = kept_by_frequency(space, cutoff)
    assert kept.tolist() == sorted(slow)
    np.testing.assert_array_equal(kept, kept_by_frequency(space, cutoff))


@pytest.mark.parametrize("name", SPACES)
def test_truncated_encodings_are_columns_of_the_full_one(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(1)
    chosen = [space.sample(rng) for _ in range(20)]
    shortest, frequent = kept_by_length(space), kept_by_frequency(space, 20)
    for counts in ("", "_counts"):
        full = encode(f"path{counts}", space, chosen)
        np.testing.assert_array_equal(encode(f"trunc_path{counts}", space, chosen), full[:, shortest])
        np.testing.assert_array_equal(encode(f"frequent_path{counts}:20", space, chosen), full[:, frequent])


# -- the fast encoder and the slow one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
@given(data=st.data())
@few
def test_paths_against_counting_by_hand(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    chosen = data.draw(archs(space, 4))
    slow = np.zeros((len(chosen), space.num_paths))
    for row, arch in enumerate(chosen):
        for path in space.paths(arch):
            slow[row, path] += 1
    np.testing.assert_array_equal(encode("path_counts", space, chosen), slow)
    np.testing.assert_array_equal(encode("path", space, chosen), slow > 0)


@pytest.mark.parametrize("name", SPACES)
@given(data=st.data())
@few
def test_adjacency_against_writing_it_by_hand(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    for arch in data.draw(archs(space, 4)):
        variables = list(zip(space.adjacency(arch), space.adjacency_sizes, strict=True))
        one_hot: list[int] = []
        for value, size in variables:
            one_hot += [value] if size == 2 else [int(value == other) for other in range(size)]
        edges = [value for value, size in variables if size == 2]
        present = [number for number, edge in enumerate(edges, 1) if edge]
        categorical = present + [0] * (len(edges) - len(present)) + [value for value, size in variables if size != 2]
        continuous = [value / (size - 1) for value, size in variables] + [len(present)]
        assert encode("adjacency", space, [arch])[0].tolist() == one_hot
        assert encode("categorical_adjacency", space, [arch])[0].tolist() == categorical
        np.testing.assert_allclose(encode("continuous_adjacency", space, [arch])[0], continuous, rtol=1e-6)


def test_adjacency_of_a_cell_worked_out() -> None:
    # input -> 1x1 -> pool -> output and input -> output. Seven vertices are assumed, the output is always the last, so the edges are
    # 0-1, 1-2, 2-6 and 0-6; of the 21 possible ones, row by row, these have the numbers 1, 7, 15 and 6 (counted from 1).
    arch = cell([C1, POOL], (0, 1), (1, 2), (2, 3), (0, 3))
    bits = [
        *[1, 0, 0, 0, 0, 1],  # from the input: to vertices 1 to 6
        *[1, 0, 0, 0, 0],  # from vertex 1: to 2 to 6
        *[0, 0, 0, 1],  # from vertex 2: to 3 to 6
        *[0, 0, 0, 0, 0, 0],  # vertices 3, 4 and 5 are not used
    ]
    # Operations are numbered 3x3, 1x1, pool; vertices that are not used count as 3x3.
    assert encode("adjacency", NB101, [arch])[0].tolist() == [*bits, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0]
    assert encode("categorical_adjacency", NB101, [arch])[0].tolist() == [1, 6, 7, 15, *[0] * 17, 1, 2, 0, 0, 0]
    assert encode("continuous_adjacency", NB101, [arch])[0].tolist() == [*bits, 0.5, 1, 0, 0, 0, 4]


def test_adjacency_of_a_cell_with_operations_on_edges() -> None:
    arch = NB201.make(["none", "skip_connect", "none", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3"])
    # Order of the operations: pool 0, conv1x1 1, conv3x3 2, none 3, skip 4. No variable has two values, so none is an edge.
    assert encode("categorical_adjacency", NB201, [arch])[0].tolist() == [3, 4, 3, 0, 1, 2]
    assert encode("continuous_adjacency", NB201, [arch])[0].tolist() == [0.75, 1, 0.75, 0, 0.25, 0.5, 0]
    assert encode("adjacency", NB201, [arch])[0].reshape(6, 5).argmax(axis=1).tolist() == [3, 4, 3, 0, 1, 2]


# -- pairs of operations --------------------------------------------------------------------------------------------------


def test_operation_pairs_of_cells_worked_out() -> None:
    arch = cell([C1, C3, C3], (0, 1), (0, 2), (1, 3), (2, 3), (0, 4), (3, 4))  # rows: 3x3, 1x1, pool, input; columns: ..., output
    assert NB101.operation_pairs(arch).tolist() == [[1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]]
    # The successive edges of NAS-Bench-201: 0->1->2, 0->1->3, 0->2->3, 1->2->3.
    arch = NB201.make(["nor_conv_3x3", "skip_connect", "none", "avg_pool_3x3", "avg_pool_3x3", "nor_conv_1x1"])
    expected = np.zeros((5, 5))
    expected[[2, 2, 4, 3], [3, 0, 1, 1]] = 1
    np.testing.assert_array_equal(NB201.operation_pairs(arch), expected)


@given(data=st.data())
@few
def test_operation_pairs_of_darts_against_walking_the_cell(data: st.DataObject) -> None:
    (arch,) = data.draw(archs(DARTS, 1))
    expected = np.zeros((2, 10, 8), dtype=int)
    for kind, name in enumerate(("normal", "reduce")):
        pairs = [(DARTS_OPS.index(op), source) for op, source in arch[name]]
        into = {node: [op for op, _ in pairs[2 * node - 4 : 2 * node - 2]] for node in range(2, 6)}
        for op, source in pairs:
            for before in into[source] if source in into else [source - 2]:
                expected[kind, 2 + before, op] += 1
    np.testing.assert_array_equal(DARTS.operation_pairs(arch), expected.reshape(20, 8))


# -- all of them ----------------------------------------------------------------------------------------------------------

WIDTHS = {
    "nasbench101": {
        "path": 364,
        "trunc_path": 40,
        "adjacency": 21 + 15,
        "categorical_adjacency": 26,
        "continuous_adjacency": 27,
        "operation_pairs": 16,
    },
    "nasbench201": {
        "path": 155,
        "trunc_path": 30,
        "adjacency": 30,
        "categorical_adjacency": 6,
        "continuous_adjacency": 7,
        "operation_pairs": 25,
    },
    "darts": {
        "path": 18_724,
        "trunc_path": 288,
        "adjacency": 180,
        "categorical_adjacency": 32,
        "continuous_adjacency": 33,
        "operation_pairs": 160,
    },
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", SPACES)
@given(data=st.data())
@few
def test_shape_type_and_range(name: str, encoding: str, data: st.DataObject) -> None:
    space = SPACES[name]
    chosen = data.draw(archs(space, 5))
    encoded = encode(encoding, space, chosen)
    assert encoded.dtype == np.float32
    width = len(space.scalars(chosen[0])) if encoding == "scalars" else WIDTHS[name].get(encoding.removesuffix("_counts"))
    assert encoded.shape == (len(chosen), encoded.shape[1] if width is None else width)
    assert np.isfinite(encoded).all()
    if encoding in ("path", "trunc_path", "frequent_path", "adjacency"):
        assert set(np.unique(encoded)) <= {0.0, 1.0}
    elif encoding == "scalars":
        assert np.abs(encoded).max() < 10  # of order 1
    else:
        assert encoded.min() >= 0
    # A row depends on its architecture alone, and a second call gives the same.
    np.testing.assert_array_equal(encoded, np.concatenate([encode(encoding, space, [arch]) for arch in chosen]))


def test_the_description_does_not_matter_to_the_encoding() -> None:
    # The two branches of a cell in either order, with an unused vertex in the second description.
    one = cell([C1, C3], (0, 1), (0, 2), (1, 3), (2, 3))
    two = cell([C3, POOL, C1], (0, 1), (0, 3), (1, 4), (3, 4))
    swapped = {kind: [pair for i in range(0, 8, 2) for pair in (pairs[i + 1], pairs[i])] for kind, pairs in GENOTYPES["DARTS_V2"].items()}
    cells = [(NB101, one, two), (DARTS, DARTS.from_genotype(**GENOTYPES["DARTS_V2"]), DARTS.from_genotype(**swapped))]
    for space, first, second in cells:
        assert first == second
        for encoding in ENCODINGS:
            np.testing.assert_array_equal(encode(encoding, space, [first]), encode(encoding, space, [second]))


def test_names_joined_by_plus_stand_side_by_side() -> None:
    chosen = [NB201.sample(np.random.default_rng(seed)) for seed in range(3)]
    joined = encode("trunc_path:5+scalars+adjacency", NB201, chosen)
    parts = [encode(part, NB201, chosen) for part in ("trunc_path:5", "scalars", "adjacency")]
    assert parts[0].shape == (3, 5)
    np.testing.assert_array_equal(joined, np.concatenate(parts, axis=1))


def test_what_is_known_is_encoded_once() -> None:
    class Counting(NASBench201Space):
        asked = 0

        def scalars(self, arch: Arch) -> tuple[float, ...]:
            self.asked += 1
            return super().scalars(arch)

    space, chosen = Counting(), [NB201.sample(np.random.default_rng(seed)) for seed in range(6)]
    for part in (chosen[:4], [*chosen[3:], chosen[0]], chosen):
        np.testing.assert_array_equal(encode_again("trunc_path:5+scalars", space, part), encode("trunc_path:5+scalars", NB201, part))
    assert space.asked == 6
    assert encode_again("scalars", space, chosen).shape == (6, len(NB201.scalars(chosen[0])))  # another encoding is another matter


def test_weights_stand_beside_the_features_and_do_not_change_them() -> None:
    chosen = [NB201.sample(np.random.default_rng(seed)) for seed in range(3)]
    np.testing.assert_array_equal(encode("trunc_path:5*0.2+scalars", NB201, chosen), encode("trunc_path:5+scalars", NB201, chosen))
    scalars = len(NB201.scalars(chosen[0]))
    assert feature_weights("trunc_path:5*0.2+scalars", NB201).tolist() == [0.2] * 5 + [1.0] * scalars
    assert feature_weights("trunc_path:5*2", NB201).tolist() == [1.0] * 5  # weights are relative


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paths", "did you mean 'path'"),
        ("path+", "unknown encoding ''"),
        ("trunc_path:0", "positive number"),
        ("trunc_path:-3", "positive number"),
        ("trunc_path:", "positive number"),
        ("trunc_path:many", "positive number"),
        ("trunc_path*", "asterisk"),
        ("trunc_path*0", "asterisk"),
        ("trunc_path*-1", "asterisk"),
        ("trunc_path*nan", "asterisk"),
        ("trunc_path*inf", "asterisk"),
        ("trunc_path*0.5:40", "asterisk"),
    ],
)
def test_wrong_names_are_told(text: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        parse_encoding(text)


def test_a_space_without_adjacency_says_so() -> None:
    class Bare(NASBench201Space):
        adjacency = SearchSpace.adjacency

    with pytest.raises(OutOfSpaceError, match="defines no adjacency encoding; use a path encoding"):
        encode("adjacency", Bare(), [NB201.sample(np.random.default_rng(0))])


def test_without_weights_the_same_is_seen() -> None:
    assert unweighted("trunc_path_counts:9*0.15+scalars+path*2") == "trunc_path_counts:9+scalars+path"
