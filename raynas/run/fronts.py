"""The front of a run with several objectives, as its trials end. m: objectives."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raynas.front import FIRST, MOST, hypervolume, non_dominated, reference_point
from raynas.outcome import Objective, Outcome, excess_of

Floats = NDArray[np.float64]


class Front:
    """The finished trials within the limits that no other is better than; of one objective, the best ones."""

    def __init__(self, objective: Objective) -> None:
        self.rows: list[dict[str, Any]] = []  # of trials
        self._objective = objective
        self._vectors = self._first = np.empty((0, len(objective.metrics)))  # of the rows; of the first trials

    def add(self, row: Mapping[str, Any], outcome: Outcome) -> None:
        """One more trial has ended."""
        vector = self._objective.vector(outcome.metrics)
        if outcome.status != "finished" or vector is None:
            return
        if len(self._first) < FIRST:
            self._first = np.vstack([self._first, vector])
        if excess_of(self._objective.over(outcome.metrics)) > 0:
            return
        vectors = np.vstack([self._vectors, vector])
        kept = non_dominated(vectors)
        self.rows = [each for each, stays in zip([*self.rows, dict(row)], kept, strict=True) if stays]
        self._vectors = vectors[kept]

    @property
    def settled(self) -> bool:
        """Whether the reference is what it will be."""
        return len(self._first) == FIRST

    @property
    def reference(self) -> dict[str, float]:
        """The worst value of each objective among the first finished trials, by metric; empty before any."""
        if not len(self._first):
            return {}
        pairs = zip(self._objective.metrics, reference_point(self._first).tolist(), strict=True)
        return {metric.name: -worst if metric.direction == "min" else worst for metric, worst in pairs}

    @property
    def hypervolume(self) -> float | None:
        """What the front dominates of what is better than the reference, in the product of the objectives' units.

        None for one objective or more than three, and before any trial has finished.
        """
        if not 2 <= self._vectors.shape[1] <= MOST or not len(self._first):
            return None
        return hypervolume(self._vectors, reference_point(self._first))
