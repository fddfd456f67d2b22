"""Fronts and hypervolumes, against slow definitions and an independent implementation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raynas.front import crowding, hypervolume, improvement, non_dominated, ranked, reference_point, shortfall, undominated

Floats = NDArray[np.float64]
POINTS = st.integers(2, 3).flatmap(
    lambda m: st.lists(st.tuples(*[st.integers(0, 8).map(lambda v: v / 8)] * m), max_size=12).map(
        lambda rows: np.array(rows).reshape(-1, m)
    )
)


def dominates(first: Floats, second: Floats) -> bool:
    return bool((first >= second).all() and (first > second).any())


@given(POINTS)
@settings(deadline=None)
def test_the_front_is_what_nothing_dominates(points: Floats) -> None:
    assert non_dominated(points).tolist() == [not any(dominates(other, point) for other in points) for point in points]


@given(POINTS)
@settings(deadline=None)
def test_hypervolumes_are_those_of_optuna(points: Floats) -> None:
    compute_hypervolume = pytest.importorskip("optuna._hypervolume").compute_hypervolume  # it minimises
    reference = np.full(points.shape[1], 0.25)
    inside = points[(points > reference).all(axis=1)]
    assert hypervolume(points, reference) == pytest.approx(compute_hypervolume(-inside, -reference) if len(inside) else 0.0)


@given(POINTS)
@settings(deadline=None)
def test_what_a_point_adds_is_the_difference_of_two_volumes(points: Floats) -> None:
    reference = np.full(points.shape[1], 0.25)
    new = np.random.default_rng(len(points)).random((5, points.shape[1]))
    before = hypervolume(points, reference)
    expected = [hypervolume(np.vstack([points, point]), reference) - before for point in new]
    np.testing.assert_allclose(improvement(new, undominated(points, reference)), expected, atol=1e-12)


def test_worked_out() -> None:
    points = np.array([[0.0, 3.0], [1.0, 2.0], [3.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    assert non_dominated(points).tolist() == [True, True, True, False, True]
    assert hypervolume(points, np.array([-1.0, -1.0])) == 4 + 1 * 3 + 2 * 1  # from the left: 1 x 4, 1 x 3, 2 x 1
    assert crowding(points[:3]).tolist() == [np.inf, 2.0, np.inf]  # 3 / 3 of either objective
    np.testing.assert_allclose(shortfall(np.array([[0.5, 1.5], [2.0, 0.5]]), points), [0.5, -0.5])
    assert undominated(np.array([[2.0], [1.0]]), np.zeros(1)).tolist() == [[[2.0], [np.inf]]]


def test_order_of_nsga2() -> None:
    points = np.array([[1.0, 1.0], [0.0, 3.0], [1.0, 2.0], [1.1, 1.9], [3.0, 0.0], [9.0, 9.0], [8.0, 8.0]])
    excess = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.1])
    best = ranked(points, excess).tolist()
    assert set(best[:2]) == {1, 4}  # the ends of the front,
    assert best[2:] == [3, 2, 0, 6, 5]  # its least crowded, the next front, what exceeds limits least
    assert ranked(points, excess, 2).tolist() == best[:4]  # whole fronts
    assert ranked(np.empty((0, 2)), np.empty(0)).tolist() == []


def test_a_reference_does_not_move() -> None:
    points = np.random.default_rng(0).random((30, 2))
    assert (reference_point(points) == points[:10].min(axis=0)).all()
    volumes = [hypervolume(points[:i], reference_point(points)) for i in range(10, 30)]
    assert (np.diff(volumes) > -1e-12).all()
