"""The front of several objectives: what nothing else is better than. n: points, m: objectives, b: boxes. Higher is better."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST = 3  # objectives for which hypervolumes are computed: exact ones take a time that grows exponentially with their number
FIRST = 10  # observations of which the worst values are the reference


def non_dominated(points: Floats) -> NDArray[np.bool_]:
    """(n,) whether no other of the points (n, m) is at least as good in everything and better in something; equal ones are, together."""
    kept = np.zeros(len(points), dtype=bool)
    left = np.lexsort(points.T[::-1])[::-1] if points.size else np.empty(0, dtype=int)  # the largest first objective first
    while len(left):  # its first is dominated by nothing that is left, nor by what went
        first = points[left[0]]
        kept[left[0]] = True
        left = left[1:]
        left = left[(points[left] > first).any(axis=1) | (points[left] == first).all(axis=1)]
    return kept


def crowding(points: Floats) -> Floats:
    """(n,) how far the neighbours of each of the points (n, m) of a front are apart; infinite at its ends (NSGA-II, section III-B)."""
    distance = np.zeros(len(points))
    for values in points.T:
        order = np.argsort(values, kind="stable")
        spread = np.ptp(values) or 1.0
        gaps = np.diff(values[order], prepend=-np.inf, append=np.inf)
        distance[order] += (gaps[1:] + gaps[:-1]) / spread
    return distance


def ranked(points: Floats, excess: Floats, most: int | None = None) -> NDArray[np.int64]:
    """Indices of points (n, m), the best first; whole fronts that are at least `most` points, None: all.

    What keeps the limits comes front by front, of each the least crowded first; then what exceeds them least (NSGA-II: Deb, Pratap,
    Agarwal, Meyarivan, IEEE Transactions on Evolutionary Computation 2002, sections III and VI). `excess` (n,): over the limits.
    """
    wanted = len(points) if most is None else most
    order = list[int]()
    left = np.flatnonzero(excess <= 0)
    while len(left) and len(order) < wanted:
        on = non_dominated(points[left])
        front = left[on]
        order += front[np.argsort(-crowding(points[front]), kind="stable")].tolist()
        left = left[~on]
    beyond = np.flatnonzero(excess > 0)
    order += beyond[np.argsort(excess[beyond], kind="stable")][: max(0, wanted - len(order))].tolist()
    return np.array(order, dtype=np.int64)


def reference_point(points: Floats) -> Floats:
    """(m,) the worst of each objective in the first ten of the points (n, m), n > 0: later ones do not move it, so volumes only grow."""
    worst: Floats = points[:FIRST].min(axis=0)
    return worst


def hypervolume(points: Floats, reference: Floats) -> float:
    """The volume of what the points (n, m) dominate and what dominates the reference (m,), exactly; m > 1.

    It is sliced along the last objective, so the time grows with the power m - 1 of n.
    """
    points = points[(points > reference).all(axis=1)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    heights = np.diff(points[:, -1], prepend=reference[-1])
    if points.shape[1] == 2:
        slices = np.maximum.accumulate(points[::-1, 0])[::-1] - reference[0]  # the widest of those at least as high
    else:
        slices = np.array([hypervolume(points[i:, :-1], reference[:-1]) if heights[i] else 0.0 for i in range(len(points))])
    return float(heights @ slices)


def undominated(points: Floats, reference: Floats) -> Floats:
    """(b, 2, m) boxes, their lower and upper corners, that make up what dominates the reference (m,) and none of the points (n, m)."""
    return np.array(_boxes(points[(points > reference).all(axis=1)], reference))


_Box = tuple[tuple[float, ...], tuple[float, ...]]


def _boxes(points: Floats, reference: Floats) -> list[_Box]:
    if points.shape[1] == 1:
        return [((float(points.max(initial=reference[0])),), (np.inf,))]
    edges = np.unique(points[:, -1]).tolist()
    below: dict[_Box, float] = {}  # boxes of the other objectives and where they begin; they end where the slice above has others
    found = list[_Box]()
    for low, high in zip([float(reference[-1]), *edges], [*edges, np.inf], strict=True):
        inside = set(_boxes(points[points[:, -1] >= high, :-1], reference[:-1]))
        found += [((*box[0], start), (*box[1], low)) for box, start in below.items() if box not in inside]
        below = {box: below.get(box, low) for box in sorted(inside)}
    return found + [((*box[0], start), (*box[1], np.inf)) for box, start in below.items()]


def improvement(points: Floats, boxes: Floats) -> Floats:
    """(...,) by how much each of the points (..., m) alone would increase the hypervolume; `boxes` are those of `undominated`."""
    low, high = boxes[:, 0], boxes[:, 1]
    overlap: Floats = np.maximum(np.minimum(points[..., None, :], high) - low, 0.0).prod(axis=-1).sum(axis=-1)
    return overlap


def shortfall(points: Floats, front: Floats) -> Floats:
    """(...,) what has to be added to all objectives of each of the points (..., m) until none of the front (n, m) dominates it, n > 0."""
    lacking: Floats = (front - points[..., None, :]).min(axis=-1).max(axis=-1)
    return lacking
