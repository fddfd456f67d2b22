"""The supernet of one-shot searches, and the second-order gradient of its architecture."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from raynas.errors import ConfigError
from raynas.spaces.darts import GENOTYPES, KINDS, NODES, OPS, DARTSSpace
from trainables.learning.bilevel import second_order_gradients
from trainables.learning.networks.darts import FactorizedReduce
from trainables.learning.networks.supernet import EDGES, STARTS, MixedOperation, Supernet, chosen, derived

SPACE = DARTSSpace()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small_net(**options: Any) -> Supernet:
    return Supernet(**{"classes": 3, "image_size": 8, "image_channels": 1, "channels": 4, "layers": 3} | options)


def test_the_published_supernet_has_the_published_size() -> None:
    net = Supernet(10)
    assert sum(weight.numel() for weight in net.weights()) == 1_930_618
    assert {kind: tuple(alpha.shape) for kind, alpha in net.strengths.items()} == {"normal": (14, 8), "reduce": (14, 8)}
    assert 0.9e-3 < float(torch.stack(net.architecture()).detach().std()) < 1.1e-3
    assert EDGES == 14
    assert STARTS == (0, 2, 5, 9, 14)
    # Batch norms have weights in the stem only.
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(norm.affine for norm in norms) == 1
    assert all(isinstance(pooling[-1], nn.BatchNorm2d) for edge in net.cells[0].edges for pooling in edge.ops[1:3])


def test_sizes_are_arguments() -> None:
    for size, channels, classes in ((8, 1, 7), (32, 3, 2), (96, 3, 2)):
        net = small_net(classes=classes, image_size=size, image_channels=channels, channels=2).eval()
        assert net(torch.randn(2, channels, size, size)).shape == (2, classes)
        assert [type(cell.before) is FactorizedReduce for cell in net.cells] == [False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 10}, "multiple of 4, not 10"),
        ({"image_size": 100}, "multiple of 8, not 100"),
        ({"layers": 2}, "at least 3, not 2"),
        ({"channels": 0}, "channels of a network must be at least 1"),
        ({"partial": 3}, "partial must divide the channels of the supernet, 4; 3 does not"),
        ({"partial": 0}, "partial of a network must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_net(**options)


def test_a_cell_alone_is_the_mixture_that_has_no_other() -> None:
    net, x = small_net(), torch.randn(5, 1, 8, 8)
    for seed in range(3):
        arch = DARTSSpace(with_none=True).sample(np.random.default_rng(seed))
        with torch.no_grad():
            for kind in KINDS:
                # Certainty: one operation on each of the edges of the cell, none on the others.
                net.strengths[kind].fill_(-1e4)[:, 0] = 0.0
                for i, (op, source) in enumerate(arch[kind]):
                    edge = STARTS[i // 2] + source
                    net.strengths[kind][edge] = torch.where(torch.arange(len(OPS)) == OPS.index(op), 0.0, -1e4)
            torch.testing.assert_close(net(x, arch), net(x))


def test_the_mixture_is_the_weighted_sum_of_all_operations() -> None:
    edge, x = MixedOperation(4, 2, 1), torch.randn(3, 4, 8, 8)
    weights = torch.rand(8)
    slow = torch.zeros(3, 4, 4, 4)
    for weight, op in zip(weights, edge.ops, strict=True):
        slow += weight * op(x)
    torch.testing.assert_close(edge(x, weights), slow)
    assert edge(x, 0).abs().sum() == 0


def test_partial_channels() -> None:
    edge, x = MixedOperation(8, 1, 4), torch.randn(2, 8, 4, 4)
    assert edge.ops[OPS.index("sep_conv_3x3")][1].in_channels == 2
    skip = edge(x, OPS.index("skip_connect"))
    # Channel i * 2 + j goes to j * 4 + i: the two that an operation has seen are 0 and 4 now.
    torch.testing.assert_close(skip, x[:, [0, 2, 4, 6, 1, 3, 5, 7]])
    none = edge(x, 0)
    assert none[:, [0, 4]].abs().sum() == 0
    torch.testing.assert_close(none[:, [1, 2, 3, 5, 6, 7]], x[:, [2, 4, 6, 3, 5, 7]])
    halved = MixedOperation(8, 2, 4)(x, 0)
    torch.testing.assert_close(halved[:, [1, 2, 3]], F.max_pool2d(x, 2)[:, [2, 4, 6]])
    net = small_net(partial=2)
    assert [tuple(alpha.shape) for alpha in net.architecture()] == [(14, 8), (14, 8), (14,), (14,)]
    loss = F.cross_entropy(net(torch.randn(4, 1, 8, 8)), torch.tensor([0, 1, 2, 0]))
    gradients = torch.autograd.grad(loss, [*net.architecture(), *net.weights()])
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients[:4])


def strengths(*strongest: tuple[int, str, float]) -> Tensor:
    """(14, 8) of 0.1 but for (edge, operation, value)."""
    made = torch.full((EDGES, len(OPS)), 0.1)
    for edge, op, value in strongest:
        made[edge, OPS.index(op)] = value
    return made


def test_derived_cells() -> None:
    normal = strengths(
        (0, "skip_connect", 0.3), (1, "sep_conv_3x3", 0.2),  # node 0 has these two edges only
        (2, "none", 0.9), (3, "dil_conv_3x3", 0.2), (4, "max_pool_3x3", 0.3),  # node 1: none counts for nothing
        (5, "sep_conv_5x5", 0.5), (5, "sep_conv_3x3", 0.4), (8, "dil_conv_5x5", 0.2),  # node 2: one operation of an edge
        (10, "avg_pool_3x3", 0.15),  # node 3: edges 9, 11, 12 and 13 are equal, so the first of them is second
    )  # fmt: skip
    cells = derived({"normal": normal, "reduce": strengths()})
    assert cells["normal"] == (
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("max_pool_3x3", 2), ("dil_conv_3x3", 1),
        ("sep_conv_5x5", 0), ("dil_conv_5x5", 3),
        ("avg_pool_3x3", 1), ("max_pool_3x3", 0),
    )  # fmt: skip
    assert cells["reduce"] == tuple(("max_pool_3x3", source) for _ in range(NODES) for source in (0, 1))
    assert SPACE.contains(cells)


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2"])
def test_published_cells_are_derived_from_strengths_that_prefer_them(name: str) -> None:
    arch = SPACE.from_genotype(**GENOTYPES[name])
    net = small_net()
    with torch.no_grad():
        for kind in KINDS:
            for edge, choice in enumerate(chosen(arch[kind])):
                if choice is not None:
                    net.strengths[kind][edge, choice] += 1.0
    assert net.derive() == arch


def test_importances_choose_edges() -> None:
    net = small_net(partial=2)
    with torch.no_grad():
        for alpha in net.architecture():
            alpha.zero_()
        net.importances["normal"][[3, 4, 7, 8, 11, 13]] = 1.0
        net.strengths["normal"][:, OPS.index("dil_conv_3x3")] = 0.5
    assert {source for _, source in net.derive()["normal"][2:4]} == {1, 2}
    assert {source for _, source in net.derive()["normal"][4:6]} == {2, 3}
    assert {source for _, source in net.derive()["normal"][6:]} == {2, 4}
    assert {op for op, _ in net.derive()["normal"]} == {"dil_conv_3x3"}


def unrolled(
    net: Supernet, optimizer: torch.optim.SGD, train: Callable[[dict[str, Tensor]], Tensor], valid: Callable[[dict[str, Tensor]], Tensor]
) -> list[Tensor]:
    """The gradient that `second_order_gradients` approximates, by differentiating through the step of the weights."""
    (group,) = optimizer.param_groups
    parameters = dict(net.named_parameters())
    names = [name for name, parameter in parameters.items() if any(parameter is weight for weight in net.weights())]
    weights = [parameters[name] for name in names]
    gradients = torch.autograd.grad(train(parameters), weights, create_graph=True)
    for name, weight, gradient in zip(names, weights, gradients, strict=True):
        momentum = optimizer.state[weight]["momentum_buffer"]
        parameters[name] = weight - group["lr"] * (group["momentum"] * momentum + gradient + group["weight_decay"] * weight)
    return list(torch.autograd.grad(valid(parameters), net.architecture()))


def test_second_order_gradients_are_those_through_the_step() -> None:
    net = small_net(channels=2).double()
    optimizer = torch.optim.SGD(net.weights(), 0.1, 0.9, weight_decay=3e-3)
    x, y = torch.randn(2, 12, 1, 8, 8, dtype=torch.float64), torch.randint(3, (2, 12))

    def loss(parameters: dict[str, Tensor] | None, part: int) -> Tensor:
        logits = net(x[part]) if parameters is None else functional_call(net, parameters, (x[part],))
        return F.cross_entropy(logits, y[part])

    for _ in range(2):  # so that there is momentum
        optimizer.zero_grad()
        loss(None, 0).backward()
        optimizer.step()
    exact = unrolled(net, optimizer, lambda p: loss(p, 0), lambda p: loss(p, 1))
    before = [weight.detach().clone() for weight in net.weights()]
    # So small a radius that no rectifier changes its sign, which the finite difference would not know.
    close = second_order_gradients(lambda: loss(None, 0), lambda: loss(None, 1), net.weights(), net.architecture(), optimizer, 1e-6)
    first = torch.autograd.grad(loss(None, 1), net.architecture())
    for found, expected, simple in zip(close, exact, first, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
        assert float((simple - expected).norm() / expected.norm()) > 0.1  # the first order is another gradient
    assert all(torch.equal(weight, old) for weight, old in zip(net.weights(), before, strict=True))


def test_the_finite_difference_is_exact_for_a_parabola() -> None:
    w, alpha = nn.Parameter(torch.tensor([1.0, -2.0, 3.0])), nn.Parameter(torch.tensor([0.5, 1.0, 2.0]))
    target = torch.tensor([0.3, 0.2, 0.1])
    optimizer = torch.optim.SGD([w], 0.1, 0.9, weight_decay=0.01)
    # L_train = sum(alpha w²) / 2 and L_valid = sum((w - target)²) / 2, so w' = w (1 - 0.1 (alpha + 0.01)).
    found = second_order_gradients(
        lambda: (alpha * w**2).sum() / 2, lambda: ((w - target) ** 2).sum() / 2 + 0 * alpha.sum(), [w], [alpha], optimizer
    )
    stepped = w * (1 - 0.1 * (alpha + 0.01))
    torch.testing.assert_close(found[0], (-0.1 * w * (stepped - target)).detach(), rtol=1e-3, atol=1e-4)
