from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.spaces import make_space
from raynas.spaces.nasbench201 import EDGES, OPS, PATHS, NASBench201Space

SPACE = NASBench201Space()
# From the benchmark's README (https://github.com/D-X-Y/NAS-Bench-201).
EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"

archs = st.builds(SPACE.make, st.lists(st.sampled_from(OPS), min_size=6, max_size=6))


def test_the_registry_knows_the_space() -> None:
    assert isinstance(make_space("nasbench201"), NASBench201Space)


def test_a_string_is_read_edge_by_edge() -> None:
    arch = SPACE.parse(EXAMPLE)
    assert SPACE.operations(arch) == ("nor_conv_3x3", "nor_conv_1x1", "skip_connect", "none", "avg_pool_3x3", "nor_conv_3x3")
    assert arch.id == arch["arch"] == EXAMPLE
    assert SPACE.make(SPACE.operations(arch)) == arch
    assert SPACE.adjacency(arch) == (2, 1, 4, 3, 0, 2)


def test_paths_of_an_example() -> None:
    expected = {
        3,  # edge 0-3: none
        5 + 2 + 5 * 0,  # 0-1-3: conv3x3, pool
        5 + 1 + 5 * 2,  # 0-2-3: conv1x1, conv3x3
        30 + 2 + 5 * 4 + 25 * 2,  # 0-1-2-3: conv3x3, skip, conv3x3
    }
    assert SPACE.paths(SPACE.parse(EXAMPLE)) == tuple(sorted(expected))


def test_the_two_paths_of_length_two_may_collide() -> None:
    assert SPACE.paths(SPACE.make(["avg_pool_3x3"] * 6)) == (0, 5, 5, 30)


def test_paths_are_the_walks_from_first_to_last_node() -> None:
    for path in PATHS:
        hops = [EDGES[e] for e in path]
        assert hops[0][0] == 0
        assert hops[-1][1] == 3
        assert all(a[1] == b[0] for a, b in pairwise(hops))


def test_enumeration_is_complete_and_each_path_index_occurs() -> None:
    everything = list(SPACE.enumerate())
    assert len({a.id for a in everything}) == len(everything) == SPACE.size
    assert {p for a in everything for p in SPACE.paths(a)} == set(range(SPACE.num_paths))


def test_path_lengths_cut_off_at_the_truncation() -> None:
    lengths = SPACE.path_lengths()
    assert lengths.shape == (SPACE.num_paths,)
    assert (lengths <= 2).sum() == SPACE.truncation
    assert np.bincount(lengths).tolist() == [0, 5, 25, 125]


def test_parameters_equal_the_benchmark_for_all_cells(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "nasbench201.parquet", columns=["arch", "params_millions_cifar10"])
    published = np.rint(np.array(table["params_millions_cifar10"]) * 1e6).astype(int)
    computed = np.array([SPACE.cost(SPACE.parse(text)).parameters for text in table["arch"].to_pylist()])
    assert len(computed) == SPACE.size
    np.testing.assert_array_equal(computed, published)


@given(archs)
def test_cost_equals_a_layer_by_layer_account(arch: Arch) -> None:
    parameters = flops = 0

    def conv(inputs: int, outputs: int, kernel: int, size: int) -> None:
        nonlocal parameters, flops
        parameters += inputs * outputs * kernel**2
        flops += inputs * outputs * kernel**2 * size**2

    def norm(channels: int, size: int) -> None:
        nonlocal parameters, flops
        parameters += 2 * channels
        flops += 2 * channels * size**2

    def conv_norm(inputs: int, outputs: int, kernel: int, size: int) -> None:
        conv(inputs, outputs, kernel, size)
        norm(outputs, size)

    conv_norm(3, 16, 3, 32)
    channels, size = 16, 32
    for stage in range(3):
        if stage:
            size //= 2
            conv_norm(channels, 2 * channels, 3, size)
            conv_norm(2 * channels, 2 * channels, 3, size)
            conv(channels, 2 * channels, 1, size)  # shortcut, behind a 2x2 average pool
            channels *= 2
        for _ in range(5):
            for op in SPACE.operations(arch):
                if op.startswith("nor_conv"):
                    conv_norm(channels, channels, int(op[-1]), size)
    norm(64, 8)
    assert SPACE.cost(arch) == (parameters + 64 * 10 + 10, flops + 64 * 10)


@given(archs)
def test_round_trip(arch: Arch) -> None:
    again = SPACE.from_config(arch.to_config())
    assert again == arch
    assert again.spec == arch.spec
    assert SPACE.contains(arch)


@given(archs)
def test_neighbors_differ_in_one_operation(arch: Arch) -> None:
    neighbors = SPACE.neighbors(arch)
    assert len(set(neighbors)) == len(neighbors) == 24
    assert neighbors == SPACE.neighbors(arch)
    for other in neighbors:
        assert sum(a != b for a, b in zip(SPACE.operations(arch), SPACE.operations(other), strict=True)) == 1


@given(archs, st.integers(0, 2**32 - 1))
def test_mutants_stay_in_the_space(arch: Arch, seed: int) -> None:
    assert SPACE.contains(SPACE.mutate(arch, np.random.default_rng(seed)))
    assert SPACE.mutate(arch, np.random.default_rng(seed), rate=0.0) == arch
    other = SPACE.mutate(arch, np.random.default_rng(seed), rate=4.0)
    assert all(a != b for a, b in zip(SPACE.operations(arch), SPACE.operations(other), strict=True))


def test_mutation_changes_one_and_a_half_operations_on_average() -> None:
    rng = np.random.default_rng(0)
    arch = SPACE.parse(EXAMPLE)
    changed = [np.not_equal(SPACE.adjacency(SPACE.mutate(arch, rng)), SPACE.adjacency(arch)).sum() for _ in range(4000)]
    assert abs(np.mean(changed) - 1.5) < 0.08  # 5 standard errors


def test_sampling_is_uniform_and_reproducible() -> None:
    rng = np.random.default_rng(0)
    draws = np.array([SPACE.adjacency(SPACE.sample(rng)) for _ in range(4000)])
    for edge in range(6):
        assert np.abs(np.bincount(draws[:, edge], minlength=5) / 4000 - 0.2).max() < 0.032  # 5 standard errors
    assert SPACE.sample(np.random.default_rng(7)) == SPACE.sample(np.random.default_rng(7))


@given(archs)
def test_scalars_are_of_order_one(arch: Arch) -> None:
    scalars = SPACE.scalars(arch)
    assert len(scalars) == 11
    assert np.abs(scalars).max() < 2


def test_scalars_of_a_disconnected_cell() -> None:
    assert SPACE.scalars(SPACE.make(["none"] * 6))[-4:] == (0, 0, 0, 0)
    assert SPACE.scalars(SPACE.parse(EXAMPLE))[-4:] == (3 / 4, 2 / 3, 1, 2 / 3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "needs the field 'arch'"),
        ({"arch": 3}, "needs the field 'arch'"),
        ({"arch": "|none~0|"}, "the form is"),
        ({"arch": EXAMPLE + "\n"}, "the form is"),
        ({"arch": EXAMPLE.replace("none", "conv")}, "'conv' is no operation"),
        ({"arch": EXAMPLE, "space": "darts"}, "does not belong to 'nasbench201'"),
    ],
)
def test_what_is_outside_raises_one_clear_line(config: dict[str, object], words: str) -> None:
    with pytest.raises(OutOfSpaceError, match=words) as error:
        SPACE.from_config(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ops", [["none"] * 5, "nonono", ["none"] * 5 + ["conv"], ["none"] * 5 + [[]]])
def test_make_checks_its_operations(ops: list[str]) -> None:
    with pytest.raises(OutOfSpaceError, match="NAS-Bench-201"):
        SPACE.make(ops)


def test_a_wrong_id_is_not_contained() -> None:
    assert not SPACE.contains(Arch.make("nasbench201", "x", arch=EXAMPLE))
