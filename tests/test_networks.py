"""The networks are built on the meta device, which has shapes but no values, wherever only shapes and counts matter.

n: images, c: channels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError, UnknownNameError
from raynas.spaces import SearchSpace
from raynas.spaces.darts import GENOTYPES, DARTSSpace, darts_cost
from raynas.spaces.nasbench101 import NASBench101Space
from raynas.spaces.nasbench201 import NASBench201Space
from trainables.learning.networks import make_network
from trainables.learning.networks.darts import Cell as DARTSCell
from trainables.learning.networks.darts import DARTSNetwork, NetworkCIFAR, NetworkImageNet, path_scales
from trainables.learning.networks.nasbench101 import Cell as NASBench101Cell
from trainables.learning.networks.nasbench101 import NASBench101Network
from trainables.learning.networks.nasbench201 import Cell as NASBench201Cell
from trainables.learning.networks.operations import stem_halvings

NB101, NB201, DARTS = NASBench101Space(), NASBench201Space(), DARTSSpace(with_none=True)
SPACES = {"nasbench101": NB101, "nasbench201": NB201, "darts": DARTS}
SMALL: dict[str, dict[str, Any]] = {
    "nasbench101": {"channels": 8, "modules": 1},
    "nasbench201": {"channels": 4, "cells": 1},
    "darts": {"channels": 4, "layers": 3},
}
PUBLISHED = {name: DARTS.from_genotype(**cells) for name, cells in GENOTYPES.items()}
every_space = pytest.mark.parametrize("name", SPACES)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def archs(name: str, count: int, seed: int = 0) -> Iterator[Arch]:
    rng = np.random.default_rng(seed)
    return (SPACES[name].sample(rng) for _ in range(count))


def on_meta(arch: Arch, *args: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return make_network(SPACES[arch.space], arch, *args, **options)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def multiply_accumulates(network: nn.Module, side: int, channels: int = 3) -> int:
    """As thop counts, for one image: each multiplication of a convolution or linear layer, two per element of a batch norm."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.BatchNorm2d):
            total += 2 * output.numel()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            total += output.numel() * module.weight[0].numel()

    for module in network.modules():
        module.register_forward_hook(count)
    network.eval()(torch.empty(1, channels, side, side, device="meta"))
    return total


# Counts


@every_space
def test_the_cost_of_a_space_is_that_of_the_built_network(name: str) -> None:
    for arch in archs(name, 10 if name == "darts" else 30):
        network = on_meta(arch, 10)
        assert (parameters(network), multiply_accumulates(network, 32)) == SPACES[name].cost(arch)


@pytest.mark.parametrize("sampler", ["reference", "uniform"])
def test_nasbench101_parameters_equal_the_cost_twin(sampler: str) -> None:
    space = NASBench101Space(sampler)
    rng = np.random.default_rng(1)
    for arch in (space.sample(rng) for _ in range(150)):
        assert parameters(on_meta(arch, 10)) == space.cost(arch).parameters


CONV3, CONV1, POOL = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"


@pytest.mark.parametrize(
    ("edges", "ops", "expected"),
    [
        ("01 02 03 05 16 26 34 46 56", (CONV1, CONV3, CONV3, CONV3, POOL), 2_694_282),  # like Inception
        ("01", (), 882_570),
        ("01 12", (CONV3,), 10_177_674),
        ("01 12", (CONV1,), 1_920_138),
        ("01 12", (POOL,), 882_570),
        ("01 12 23 03", (CONV3, CONV3), 20_346_506),
        ("01 12 13 14 15 26 36 46 56", (POOL,) * 5, 227_274),  # fewest of the published table
        ("01 12 23 34 45 56 02 03 06", (CONV3,) * 5, 49_979_274),  # most
    ],
)
def test_nasbench101_parameters_equal_published_ones(edges: str, ops: tuple[str, ...], expected: int) -> None:
    matrix = np.zeros((len(ops) + 2,) * 2, dtype=int)
    for edge in edges.split():
        matrix[int(edge[0]), int(edge[1])] = 1
    assert parameters(on_meta(NB101.make(matrix.tolist(), ("input", *ops, "output")), 10)) == expected


def test_nasbench201_parameters_equal_the_table(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "nasbench201.parquet", columns=["arch", "params_millions_cifar10"])
    for row in np.random.default_rng(0).choice(table.num_rows, 60, replace=False).tolist():
        text, millions = (table[column][row].as_py() for column in table.column_names)
        assert parameters(on_meta(NB201.parse(text), 10)) == round(millions * 1e6)


GOLDEN = {  # 36 channels and 20 layers, the same with auxiliary head, 16 and 8, 16 and 20
    "BANANAS": (3_583_054, 4_059_480, 316_122, 797_274),
    "DARTS_V1": (3_169_414, 3_645_840, 232_890, 671_034),
    "DARTS_V2": (3_349_342, 3_825_768, 246_106, 710_682),
    "ASHA200": (2_243_206, 2_719_632, 189_754, 469_306),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_darts_parameters_equal_published_ones(name: str) -> None:
    settings: list[dict[str, Any]] = [{}, {"auxiliary": True}, {"channels": 16, "layers": 8}, {"channels": 16, "layers": 20}]
    assert tuple(parameters(on_meta(PUBLISHED[name], 10, **options)) for options in settings) == GOLDEN[name]


def test_the_imagenet_network_has_the_published_size() -> None:
    # 4.7 M parameters (Liu et al. 2019, table 3)
    network = on_meta(PUBLISHED["DARTS_V2"], 1000, 224)
    assert (type(network), parameters(network)) == (NetworkImageNet, 4_718_752)


@pytest.mark.parametrize("channels", [8, 20])
@pytest.mark.parametrize("layers", [1, 2, 3, 8])
def test_darts_cost_equals_the_network_of_any_size(channels: int, layers: int) -> None:
    for arch in archs("darts", 4):
        network = on_meta(arch, 7, 40, channels=channels, layers=layers)
        expected = darts_cost(arch, channels, layers, classes=7, image=40)
        assert (parameters(network), multiply_accumulates(network, 40)) == expected


def relabelled(cell: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The same cell, its first two nodes (inputs 2 and 3) exchanged, the pairs of each node in the other order."""
    number = {2: 3, 3: 2}
    pairs = [(op, number.get(source, source)) for op, source in cell]
    nodes = [pairs[i : i + 2][::-1] for i in range(0, 8, 2)]
    return [pair for i in (1, 0, 2, 3) for pair in nodes[i]]


def test_isomorphic_descriptions_give_networks_of_equal_size() -> None:
    independent = [("sep_conv_3x3", 0), ("skip_connect", 1), ("dil_conv_5x5", 1), ("none", 0)]
    cell = [*independent, ("sep_conv_5x5", 2), ("max_pool_3x3", 3), ("skip_connect", 3), ("avg_pool_3x3", 0)]
    first, second = DARTS.from_genotype(cell, cell), DARTS.from_genotype(relabelled(cell), relabelled(cell))
    assert first == second
    assert first["normal"] != second["normal"]
    assert parameters(on_meta(first, 10)) == parameters(on_meta(second, 10))

    upper = [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    cells = [NB101.make(upper, ["input", *ops, "output"]) for ops in ((CONV3, CONV1), (CONV1, CONV3))]
    assert cells[0] == cells[1]
    assert len({parameters(on_meta(arch, 10, channels=5)) for arch in cells}) == 1  # 5 channels do not divide by 2


# Values and gradients


@every_space
@pytest.mark.parametrize("side", [8, 28])
def test_small_grey_images_train(name: str, side: int) -> None:
    for arch in archs(name, 10 if side == 8 else 1, seed=2):
        network = make_network(SPACES[name], arch, 4, side, 1, **SMALL[name])
        network.to(memory_format=torch.channels_last)
        images = torch.randn(3, 1, side, side).to(memory_format=torch.channels_last)
        logits = network(images)
        assert logits.shape == (3, 4)
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 3])).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        assert network.get_parameter("classifier.weight").grad.abs().sum() > 0  # type: ignore[union-attr]


@every_space
def test_photographs_fit(name: str) -> None:
    for side in (96, 224):
        network = on_meta(next(archs(name, 1)), 5, side, **SMALL[name])
        assert network(torch.empty(2, 3, side, side, device="meta")).shape == (2, 5)


def test_large_images_are_halved_until_the_side_is_at_most_64() -> None:
    assert [stem_halvings(side) for side in (8, 64, 65, 128, 129, 224, 256, 512)] == [0, 0, 1, 1, 2, 2, 2, 3]
    for name in ("nasbench101", "nasbench201"):
        network = on_meta(next(archs(name, 1)), 5, 224)
        features = network.get_submodule("stem")(torch.empty(1, 3, 224, 224, device="meta"))
        assert features.shape[2:] == (56, 56)


def test_all_weights_of_a_deep_darts_network_have_gradients_where_a_cell_has_none() -> None:
    network = make_network(DARTS, PUBLISHED["ASHA200"], 3, channels=4, layers=6, auxiliary=True)
    torch.cat(network(torch.randn(2, 3, 32, 32))).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in network.parameters())


@every_space
def test_a_compiled_network_is_one_graph_and_gives_the_same(name: str) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    network = make_network(SPACES[name], next(archs(name, 1, seed=3)), 4, 8, **SMALL[name])
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(compiled(images), network(images))
    if isinstance(network, DARTSNetwork):
        for epoch in range(1, 12):  # more than the limit of recompilations
            network.drop_path_prob = 0.05 * epoch
            compiled(images)
        assert len(graphs) == 2  # with and without dropping
    else:
        assert len(graphs) == 1


def test_nasbench101_cell_truncates_concatenates_and_adds() -> None:
    # input -> a -> b, a -> output, b -> output, input -> output; of 5 channels a has 3 and b 2; poolings of one pixel are identities
    matrix = ((0, 1, 0, 1), (0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0))
    cell = NASBench101Cell(4, 5, matrix, ("input", POOL, POOL, "output")).eval()
    x = torch.randn(2, 4, 1, 1)
    a = cell.projections["1"](x)
    assert a.shape == (2, 3, 1, 1)
    assert torch.equal(cell(x), torch.cat([a, a[:, :2]], 1) + cell.projections["3"](x))


def test_nasbench101_cell_of_one_edge_is_a_projection() -> None:
    cell = NASBench101Cell(4, 6, ((0, 1), (0, 0)), ("input", "output")).eval()
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(cell(x), cell.projections["1"](x))
    assert cell(x).shape == (2, 6, 3, 3)


def test_nasbench101_initial_weights_and_batch_norm() -> None:
    network = make_network(NB101, NB101.make([[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["input", CONV3, "output"]), 10, channels=64)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for convolution in convolutions[1:]:
        fan_in = convolution.weight[0].numel()
        assert float(convolution.weight.detach().std()) == pytest.approx(fan_in**-0.5, rel=0.05)
        assert float(convolution.weight.detach().abs().max()) <= 2 * fan_in**-0.5 / 0.8796
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.003}
    assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
    assert not network.get_parameter("classifier.bias").any()
    quick = make_network(NB101, next(archs("nasbench101", 1)), 10, channels=8, modules=1, batch_norm_momentum=0.1)
    assert {m.momentum for m in quick.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_nasbench201_cell_adds_as_many_inputs_as_there_are_paths() -> None:
    x = torch.randn(2, 3, 4, 4)
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b, c, d, e, f = ops = rng.choice(["none", "skip_connect"], 6).tolist()
        live = sum("none" not in path for path in ((d,), (a, e), (b, f), (a, c, f)))
        assert torch.allclose(NASBench201Cell(3, ops)(x), live * x)


def test_darts_cell_connects_as_described() -> None:
    skip, none = "skip_connect", "none"
    pairs = [(skip, 0), (skip, 1), (skip, 2), (none, 0), (skip, 3), (skip, 2), (skip, 4), (skip, 1)]
    cell = DARTSCell(pairs, 6, 5, 4, reduction=False, reduction_before=False).eval()
    before, last = torch.randn(2, 6, 4, 4), torch.randn(2, 5, 4, 4)
    a, b = cell.before(before), cell.last(last)
    assert torch.allclose(cell(before, last, None), torch.cat([a + b, a + b, 2 * (a + b), 2 * (a + b) + b], 1))


def test_poolings_of_an_evaluated_network_have_no_batch_norm() -> None:
    pools = [(op, source) for node in range(4) for op, source in (("max_pool_3x3", 0), ("avg_pool_3x3", 1))]
    network = on_meta(DARTS.from_genotype(pools, pools), 10, layers=3)
    kinds = {type(op) for cell in network.get_submodule("cells").children() for op in cell.get_submodule("ops")}  # type: ignore[attr-defined]
    assert kinds == {nn.MaxPool2d, nn.AvgPool2d}


# Dropping paths and the auxiliary head


def test_drop_path_keeps_whole_images_and_the_mean() -> None:
    scales = path_scales(2, torch.ones(4000, 2, 3, 3), torch.tensor(0.75))
    assert scales.shape == (2, 4000, 1, 1, 1)
    assert sorted(set(scales.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert scales.mean((1, 2, 3, 4)).tolist() == pytest.approx([1, 1], abs=0.05)


def test_paths_are_dropped_in_training_only() -> None:
    images = torch.randn(16, 3, 8, 8)
    network = make_network(DARTS, PUBLISHED["BANANAS"], 4, 8, channels=4, layers=3)
    assert isinstance(network, NetworkCIFAR)
    network.drop_path_prob = 0.5
    assert (network.drop_path_prob, "keep" in network.state_dict()) == (0.5, False)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_an_identity_is_never_dropped_but_the_skip_of_a_reduction_is() -> None:
    skips = [("skip_connect", source) for _ in range(4) for source in (0, 1)]
    before, last = torch.randn(2, 16, 4, 8, 8)
    normal, halving = (DARTSCell(skips, 4, 4, 4, reduction, reduction_before=False) for reduction in (False, True))
    assert torch.equal(normal(before, last, torch.tensor(0.01)), normal(before, last, None))
    assert (halving(before, last, torch.tensor(0.01)) == 0).any()


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_a_drop_path_probability_lies_below_one(probability: float) -> None:
    network = on_meta(PUBLISHED["BANANAS"], 4, channels=4, layers=3)
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\)"):
        network.drop_path_prob = probability  # type: ignore[assignment]


@pytest.mark.parametrize("side", [32, 40, 224, 256])
def test_auxiliary_logits_in_training_only(side: int) -> None:
    network = on_meta(PUBLISHED["DARTS_V2"], 6, side, auxiliary=True, channels=4)
    images = torch.empty(2, 3, side, side, device="meta")
    assert network.has_auxiliary
    assert [logits.shape for logits in network(images)] == [(2, 6), (2, 6)]
    assert network.eval()(images).shape == (2, 6)


@pytest.mark.parametrize("side", [8, 28, 44, 64, 96, 288])
def test_an_auxiliary_head_that_does_not_fit_is_refused(side: int) -> None:
    with pytest.raises(ConfigError, match="the auxiliary head needs a feature map of"):
        on_meta(PUBLISHED["DARTS_V2"], 10, side, auxiliary=True)
    assert not on_meta(PUBLISHED["DARTS_V2"], 10, side).has_auxiliary


# The registry and wrong settings


@every_space
@pytest.mark.parametrize("wrong", [{"classes": 0}, {"image_size": 0}, {"image_channels": 0}, {"channels": 0}])
def test_counts_below_one_are_refused(name: str, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} of a network must be at least 1, not 0"):
        on_meta(next(archs(name, 1)), **({"classes": 10} | wrong))


@pytest.mark.parametrize(
    ("space", "size", "options", "message"),
    [
        (DARTS, 30, {}, "multiple of 4, not 30"),
        (DARTS, 100, {}, "multiple of 32 and an even number of channels; got image_size=100, channels=48"),
        (DARTS, 224, {"channels": 7}, "got image_size=224, channels=7"),
        (DARTS, 32, {"channels": "wide"}, "option channels of the network of space 'darts' cannot be 'wide'"),
        (NB101, 32, {"batch_norm_momentum": 0.0}, r"must lie in \(0, 1\]"),
        (NB101, 32, {"stacks": 0}, "stacks of a network must be at least 1"),
        (NB201, 32, {"cells": 0}, "cells of a network must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(space: SearchSpace, size: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        on_meta(space.sample(np.random.default_rng(0)), 10, size, **options)


def test_a_width_below_the_number_of_joined_vertices_is_refused() -> None:
    arch = NB101.make([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], ["input", CONV3, CONV1, "output"])
    assert isinstance(on_meta(arch, 10, channels=2), NASBench101Network)
    with pytest.raises(ConfigError, match="joins 2 vertices, so channels must be at least 2, not 1"):
        on_meta(arch, 10, channels=1)


def test_unknown_names_and_foreign_architectures_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="auxiliary"):
        make_network(NB201, next(archs("nasbench201", 1)), 10, auxiliary=True)
    for space in (NB101, DARTS):
        with pytest.raises(OutOfSpaceError):
            make_network(space, next(archs("nasbench201", 1)), 10)
    with pytest.raises(OutOfSpaceError):
        make_network(NB201, next(archs("darts", 1)), 10)
