"""Distances between architectures, and a Gaussian process on them."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import check_grad, linprog
from toy_space import PlainSpace, ToySpace

from raynas.errors import ConfigError, OutOfSpaceError, ShapeError, UnknownNameError
from raynas.model import distances
from raynas.model.distances import DISTANCES, STRUCTURAL
from raynas.model.predictors.distance_gp import DistanceProcess
from raynas.spaces import Graph, make_space
from raynas.spaces.subset import Subset

Floats = NDArray[np.float64]


def cells(name: str, count: int, seed: int = 0) -> tuple[Any, list[Any]]:
    space, rng = make_space(name), np.random.default_rng(seed)
    return space, [space.sample(rng) for _ in range(count)]


@pytest.mark.parametrize("name", ["nasbench101", "nasbench201", "darts", "mobile"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_distance_is_symmetric_and_0_of_itself_and_keeps_the_triangle(distance: str, name: str) -> None:
    space, archs = cells(name, 8)
    between = DISTANCES[distance](space, archs, archs)
    np.testing.assert_allclose(between, between.transpose(0, 2, 1), atol=1e-9)
    np.testing.assert_allclose(np.diagonal(between, axis1=1, axis2=2), 0, atol=1e-9)
    assert (between.sum(axis=0)[~np.eye(8, dtype=bool)] > 0).any()
    np.testing.assert_array_equal(DISTANCES[distance](space, archs[:3], archs[2:]), between[:, :3, 2:])
    if distance != "otmann":  # whose normalised form need not
        assert (between[:, :, None] <= between[:, :, :, None] + between[:, None] + 1e-9).all()


def test_adjacency_and_paths_worked_out() -> None:
    space = make_space("nasbench201")
    one, other = (space.from_text(f"|{a}~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|") for a in ("none", "nor_conv_3x3"))
    assert distances.adjacency(space, [one], [other]).tolist() == [[[1.0]]]
    assert distances.path(space, [one], [other]).tolist() == [[[3.0]]]  # of (4, 23, 123) and (4, 22, 122, 23), 23 being there twice


# -- graphs ----------------------------------------------------------------------------------------------------------------


def least_edits(one: Graph, other: Graph) -> int:
    """The graph edit distance, by trying every matching of vertices."""
    size = len(one.operations) + len(other.operations)

    def padded(graph: Graph) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        extra = size - len(graph.operations)
        return np.pad(graph.adjacency, (0, extra)), np.pad(graph.operations, (0, extra), constant_values=-1)

    (left, labels), (right, others) = padded(one), padded(other)
    orders = {tuple(order[: len(one.operations)]) for order in permutations(range(size))}
    found = []
    for chosen in orders:
        order = [*chosen, *(i for i in range(size) if i not in chosen)]
        found.append(int((labels != others[order]).sum() + (left != right[np.ix_(order, order)]).sum()))
    return min(found)


def test_the_edit_distance_is_a_lower_bound_of_the_exact_one_and_mostly_equal() -> None:
    space, archs = cells("nasbench101", 60, seed=1)
    small = [arch for arch in archs if len(arch["operations"]) <= 4][:7]
    bounds = distances.edit(space, small, small)[0]
    exact = np.array([[least_edits(space.graph(one), space.graph(other)) for other in small] for one in small])
    assert (bounds <= exact + 1e-9).all()
    assert (bounds == exact).mean() > 0.7


def slow_otmann(space: Any, one: Graph, other: Graph, weight: float) -> float:
    """The optimal transport of the paper (equation 3), with a null vertex on each side, as a linear program."""
    masses, places = zip(*(plain(graph) for graph in (one, other)), strict=True)
    mismatch = distances._mismatches(space.graph_operations)[np.ix_(one.operations, other.operations)]
    structure = np.array([[np.mean(np.abs(np.subtract(u, v))) for v in places[1]] for u in places[0]])
    cost = np.ones((len(masses[0]) + 1, len(masses[1]) + 1))
    cost[:-1, :-1] = np.minimum(mismatch + weight * structure, 1e6)
    cost[-1, -1] = 0
    supply, demand = [*masses[0], sum(masses[1])], [*masses[1], sum(masses[0])]
    rows = [np.eye(cost.shape[0])[i].repeat(cost.shape[1]) for i in range(cost.shape[0])]
    columns = [np.tile(np.eye(cost.shape[1])[j], cost.shape[0]) for j in range(cost.shape[1])]
    return float(linprog(cost.ravel(), A_eq=[*rows, *columns], b_eq=[*supply, *demand]).fun)


def plain(graph: Graph) -> tuple[list[int], list[list[float]]]:
    """Masses of the vertices, and the path lengths of each: from the input and to the output, shortest, longest, of a random walk."""
    last = len(graph.operations) - 1
    inner = [int(graph.adjacency[:, v].sum()) for v in range(1, last)]
    end = max(1, round(0.1 * sum(inner)))

    def lengths(v: int, to: int, step: Any) -> tuple[float, float, float]:
        if v == to:
            return 0.0, 0.0, 0.0
        further = [lengths(int(w), to, step) for w in step(v)]
        return 1 + min(f[0] for f in further), 1 + max(f[1] for f in further), 1 + float(np.mean([f[2] for f in further]))

    def back(v: int) -> Any:
        return np.flatnonzero(graph.adjacency[:, v])

    def ahead(v: int) -> Any:
        return np.flatnonzero(graph.adjacency[v])

    return [end, *inner, end], [[*lengths(v, 0, back), *lengths(v, last, ahead)] for v in range(last + 1)]


def test_otmann_is_the_optimal_transport_of_the_paper() -> None:
    space, archs = cells("nasbench101", 5, seed=3)
    graphs = [space.graph(arch) for arch in archs]
    found = distances.otmann(space, archs, archs)
    totals = [sum(plain(graph)[0]) for graph in graphs]
    for i, weight in enumerate(STRUCTURAL):
        slow = np.array([[slow_otmann(space, one, other, weight) for other in graphs] for one in graphs])
        np.testing.assert_allclose(found[i], slow, atol=1e-6)
        np.testing.assert_allclose(found[4 + i], slow / np.add.outer(totals, totals), atol=1e-6)


def test_what_operations_have_in_common() -> None:
    operations = ("input", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "max_pool_3x3", "kernel=3", "kernel=5", "width=3")
    costs = distances._mismatches(operations)
    assert costs[1, 2] == pytest.approx(0.2)
    assert costs[3, 4] == costs[5, 6] == 0.5
    assert np.isinf([costs[0, 1], costs[2, 3], costs[5, 7]]).all()


# -- the process -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_process_learns_and_knows_what_it_does_not_know(distance: str) -> None:
    space, archs = cells("nasbench201", 120)
    values = np.array([arch.id.count("nor_conv") - 2 * arch.id.count("none") + 0.0 for arch in archs])
    fitted = DistanceProcess(distance).fit(space, archs[:80], values[:80], 0)
    new, old = fitted.predict(archs[80:]), fitted.predict(archs[:80])
    assert np.corrcoef(new.mean, values[80:])[0, 1] > 0.7
    assert np.abs(old.mean - values[:80]).mean() < np.abs(new.mean - values[80:]).mean()
    assert old.std.mean() < new.std.mean() or distance == "edit"  # too far from positive semidefinite where so few edits tell all


def test_the_best_of_too_many_are_learned() -> None:
    space, archs = cells("nasbench201", 30)
    values = np.arange(30.0)
    some, best = (DistanceProcess("path", most=most).fit(space, archs[start:], values[start:], 0) for most, start in ((10, 0), (300, 20)))
    np.testing.assert_allclose(some.predict(archs).mean, best.predict(archs).mean)


@pytest.mark.parametrize("distance", ["edit", "otmann"])
def test_the_gradient_of_the_likelihood(distance: str) -> None:
    space, archs = cells("nasbench201", 60)
    model = DistanceProcess(distance).fit(space, archs, np.arange(60.0) % 7, 0).model
    theta = model.kernel_.theta * 0.5
    values = [lambda t: model.log_marginal_likelihood(t), lambda t: model.log_marginal_likelihood(t, eval_gradient=True)[1]]
    assert check_grad(*values, theta) < 1e-2 * (1 + np.abs(values[1](theta)).max())


def test_one_observation_and_equal_ones() -> None:
    space, archs = cells("nasbench201", 3)
    assert np.isfinite(DistanceProcess().fit(space, archs[:1], np.ones(1), 0).predict(archs).std).all()
    np.testing.assert_allclose(DistanceProcess("path").fit(space, archs[:1] * 3, np.full(3, 0.7), 0).predict(archs).mean, 0.7, atol=1e-6)


def test_mistakes_are_told() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'otmann'"):
        DistanceProcess("otman")
    with pytest.raises(ConfigError, match="most must be at least 1"):
        DistanceProcess(most=0)
    with pytest.raises(OutOfSpaceError, match="defines no adjacency encoding"):
        DistanceProcess().fit(PlainSpace(2), [PlainSpace(2).make("aa")], np.zeros(1), 0)
    for values in (np.zeros(2), np.array([np.nan]), np.empty(0)):
        with pytest.raises(ShapeError, match="finite numbers"):
            DistanceProcess("path").fit(ToySpace(2), [ToySpace(2).make("aa")], values, 0)


def test_a_part_of_a_space_has_its_distances() -> None:
    space, archs = cells("nasbench201", 6)
    part = Subset(space, archs)
    for measure in DISTANCES.values():
        np.testing.assert_array_equal(measure(part, archs, archs), measure(space, archs, archs))


def test_what_was_foreseen_is_no_longer_uncertain_and_what_is_near_is_less_so() -> None:
    space, archs = cells("nasbench201", 40)
    prediction = DistanceProcess("path").fit(space, archs[:20], np.arange(20.0), 0).predict(archs[20:]).widened(2.0)
    after = prediction.foreseen(3)
    assert after.std[3] == pytest.approx(0, abs=1e-6)
    assert (after.std <= prediction.std + 1e-9).all()
    np.testing.assert_array_equal(after.mean, prediction.mean)
    joint = prediction.covariance()
    expected = joint - np.outer(joint[3], joint[3]) / joint[3, 3]
    np.testing.assert_allclose(after.std, 2 * np.sqrt(np.maximum(expected.diagonal(), 0)), atol=1e-6)
    np.testing.assert_array_equal(after.foreseen(3).std, after.std)  # nothing more is to be learned there
