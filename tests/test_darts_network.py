"""The network of a DARTS architecture, which computes shared things once and in place, against the same written plainly."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raynas.arch import Arch
from raynas.spaces import make_space
from raynas.spaces.darts import GENOTYPES, DARTSSpace
from trainables.learning.networks import make_network
from trainables.learning.networks.darts import Cell, DARTSNetwork, FactorizedReduce, Picked, path_scales
from trainables.learning.networks.operations import memory_format

FORMATS = (torch.contiguous_format, torch.channels_last)
SPACE = DARTSSpace(with_none=True)
ARCHS = [SPACE.from_genotype(**cells) for cells in GENOTYPES.values()] + [SPACE.sample(np.random.default_rng(i)) for i in range(8)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def plain_reduce(layer: FactorizedReduce, x: Tensor) -> Tensor:
    """As published: two convolutions of stride 2, the second of which starts one row and column later."""
    x = F.relu(x)
    halves = [F.conv2d(x, layer.even.weight, stride=2), F.conv2d(x[:, :, 1:, 1:], layer.odd.weight, stride=2)]
    normalised: Tensor = layer.norm(torch.cat(halves, 1))
    return normalised


def plain_operation(op: nn.Module, x: Tensor) -> Tensor:
    """With the rectification that the cell has taken over, and none in place."""
    if isinstance(op, FactorizedReduce):
        return plain_reduce(op, x)
    if not isinstance(op, nn.Sequential):
        result: Tensor = op(x)
        return result
    x = F.relu(x)
    for layer in op:
        x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
    return x


def plain_cell(cell: Cell, before: Tensor, last: Tensor, scales: Tensor | None = None) -> Tensor:
    """`scales` (8, n, 1, 1, 1): of drop path."""
    states = [plain_operation(layer, x) for layer, x in ((cell.before, before), (cell.last, last))]
    for node in range(4):
        results = []
        for i in (2 * node, 2 * node + 1):
            result = plain_operation(cell.ops[i], states[cell.sources[i]])
            results.append(result if scales is None or isinstance(cell.ops[i], nn.Identity) else result * scales[i])
        states.append(results[0] + results[1])
    return torch.cat(states[2:], 1)


def plain_network(network: DARTSNetwork, x: Tensor) -> Tensor:
    before = network.stems[0](x)
    last = network.stems[1](before)
    for cell in network.cells:
        assert isinstance(cell, Cell)
        before, last = last, plain_cell(cell, before, last)
    logits: Tensor = network.classifier(last.mean((2, 3)))
    return logits


def made(arch: Arch, image_size: int = 16, channels: int = 6, layers: int = 4) -> DARTSNetwork:
    network = make_network(make_space("darts"), arch, 4, image_size, channels=channels, layers=layers).double()
    assert isinstance(network, DARTSNetwork)
    return network


@pytest.mark.parametrize(("arch", "layout"), list(product(ARCHS, FORMATS)))
def test_values_and_gradients_are_those_of_the_plain_network(arch: Arch, layout: torch.memory_format) -> None:
    network = made(arch).to(memory_format=layout)
    images = torch.randn(4, 3, 16, 16, dtype=torch.double).contiguous(memory_format=layout)
    weights = list(network.parameters())
    results = []
    for logits in (network(images), plain_network(network, images)):
        loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))
        results.append([logits.detach(), *torch.autograd.grad(loss, weights)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-10)


def test_the_network_for_photographs_is_the_plain_one() -> None:
    network = made(ARCHS[0], image_size=96, channels=4)
    images = torch.randn(2, 3, 96, 96, dtype=torch.double)
    torch.testing.assert_close(network(images), plain_network(network, images))


@pytest.mark.parametrize("reduction", [False, True])
def test_dropped_paths_are_those_of_the_plain_cell(reduction: bool) -> None:
    before, last = torch.rand(2, 5, 8, 8, 8).double()
    for arch in ARCHS:
        cell = Cell(arch["reduce" if reduction else "normal"], 8, 8, 4, reduction, reduction_before=False).double()
        keep = torch.tensor(0.6)
        torch.manual_seed(1)
        ours = cell(before, last, keep)
        torch.manual_seed(1)
        scales = path_scales(8, before, keep)
        torch.testing.assert_close(ours, plain_cell(cell, before, last, scales))


@pytest.mark.parametrize("layout", FORMATS)
def test_picking_has_the_right_gradients_in_the_format_of_its_input(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.double).contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(Picked.apply, x)
    assert torch.autograd.gradgradcheck(Picked.apply, x)
    even, odd = Picked.apply(x)
    assert torch.equal(even, x[:, :, ::2, ::2])
    assert torch.equal(odd, x[:, :, 1::2, 1::2])
    (gradient,) = torch.autograd.grad((even * odd).sum(), x)
    assert all(part.is_contiguous(memory_format=layout) for part in (even, odd, gradient))


@pytest.mark.parametrize("space", ["nasbench101", "nasbench201", "darts"])
def test_networks_are_laid_out_channels_last(space: str) -> None:
    with torch.device("meta"):
        for seed, side in product(range(10), (32, 96)):
            made = make_space(space)
            network = make_network(made, made.sample(np.random.default_rng(seed)), 3, side, channels=4)
            assert memory_format(network, torch.device("cpu")) == torch.channels_last


def test_a_strided_convolution_of_one_pixel_keeps_a_network_in_the_default_format_on_a_cpu() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Sequential(nn.Conv2d(4, 4, 1, stride=2)))
    assert memory_format(network, torch.device("cpu")) == torch.contiguous_format
    assert memory_format(network, torch.device("cuda")) == torch.channels_last
