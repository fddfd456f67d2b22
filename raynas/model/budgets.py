"""Results at several budgets as one set of observations. n: architectures, l: levels below the full budget, r: rows, m: candidates.

A trial that was stopped says something about what it would have reached: its value is carried to the full budget, level by level, by what
other trials gained there; and the model is told from which level, so that it may learn what the carrying gets wrong. It is the chain of
Kennedy and O'Hagan (Biometrika 87, 2000) with BANANAS' ensemble in the place of their Gaussian processes.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from raynas.arch import Arch
from raynas.history import History
from raynas.model.predictors.base import FittedOnVectors, FittedVectorModel, Floats, Inputs, OnVectors, Prediction
from raynas.model.targets import log_error
from raynas.spaces.base import SearchSpace

_APART = 1.5  # factor between two levels, at least: trials that were stopped anywhere make few of them
_SLOPE, _PAIRS = 0.6, 3.0  # how much of an advantage lasts to the next level, before any result, and how many results that belief is worth
_LEAST = 0.05  # of it that lasts
_WEIGHT = 0.3  # of the level among the features of an architecture
_TRUST = 0.5  # how much of what is odd about the last value of a trial is its architecture's own


class Rows(NamedTuple):
    """Measurements, one for each level that an architecture has reached."""

    archs: list[Arch]  # (r,)
    lacking: Floats  # (r,) the share of levels from there to the full budget, which has 0
    values: Floats  # (r,) carried to the full budget
    last: dict[str, int]  # id -> the row of its largest budget


def levels(history: History) -> list[float]:
    """The budgets at which trials were stopped, ascending, but for those that are close to a smaller one."""
    chosen: list[float] = []
    for budget in sorted({o.budget for o in history.observed.values() if o.status == "stopped"}):
        if budget > 0 and (not chosen or budget >= _APART * chosen[-1]):
            chosen.append(budget)
    return chosen


def rows(history: History) -> Rows | None:
    """What is known at each level, of running trials, too; None where no trial was stopped."""
    below = levels(history)
    if not below:
        return None
    archs: dict[str, Arch] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    full: dict[str, float] = {}
    for row in history.rows():
        if row.status != "failed":
            archs[row.arch.id] = row.arch
            curves.setdefault(row.arch.id, []).append((row.budget, row.value))
            if row.status == "finished":
                full[row.arch.id] = row.value  # the last one stays
    table = np.array([[*(_value_at(curves[i], b) for b in below), full.get(i, np.nan)] for i in archs])  # (n, l + 1)
    known = np.isfinite(table)
    target = log_error(table[known])
    scaled = np.full_like(table, np.nan)
    scaled[known] = target.values
    values = target.inverse(carried(scaled)[known])
    if table[known].min() >= 0 and table[known].max() <= 1:
        values = values.clip(0, 1)
    which, level = np.nonzero(known)  # by architecture, levels ascending
    each = list(archs.values())
    last = {each[i].id: row for row, i in enumerate(which.tolist())}
    return Rows([each[i] for i in which], 1 - level / len(below), values, last)


def _value_at(curve: Sequence[tuple[float, float]], budget: float) -> float:
    """The value at `budget`, or soon after; NaN where there is none."""
    at = bisect_left(curve, budget, key=lambda point: point[0])
    return curve[at][1] if at < len(curve) and curve[at][0] < _APART * budget else np.nan


def carried(values: Floats) -> Floats:
    """(n, l + 1) values at ascending levels, NaN where there is none, as they are expected to be at the last one."""
    steps = [_step(below, above) for below, above in pairwise(values.T)]
    result = values.copy()
    for level in range(len(steps)):
        for step in steps[level:]:
            result[:, level] = step(result[:, level])
    return result


def _step(below: Floats, above: Floats) -> Callable[[Floats], Floats]:
    """From one level to the next: the line through what is known at both, (n,) each, the better half of which counts more."""
    both = np.isfinite(below) & np.isfinite(above)
    x, y = (below[both], above[both]) if both.any() else (below[np.isfinite(below)],) * 2
    spread = float(np.nanstd(below)) or 1.0
    weights = np.exp(-np.maximum(np.median(x) - x, 0) / spread)
    x0, y0 = np.average(x, weights=weights), np.average(y, weights=weights)
    belief = _PAIRS * spread**2
    along = (weights * (x - x0) * (y - y0)).sum() if both.any() else 0.0
    slope = max((along + _SLOPE * belief) / ((weights * (x - x0) ** 2).sum() + belief), _LEAST)
    return lambda value: y0 + slope * (value - x0)


def fit(on: OnVectors, space: SearchSpace, known: Rows, targets: Floats, seed: int) -> tuple[FittedOnVectors, dict[str, float]]:
    """A predictor of the full budget that has learned targets (r,), being told how much was lacking; and what it makes of what is known.

    That is, by id, what every architecture is expected to reach, in units of the targets; of one that has reached it, the target.
    """
    inputs, weights = on.observed(space, known.archs)
    model = on.model.fit(_told(inputs, known.lacking), targets, seed, np.append(weights, _WEIGHT))
    fitted = FittedOnVectors(AtFullBudget(model), on, space)
    at = np.array(list(known.last.values()))
    odd = targets[at] - model.predict(_told(inputs[at], known.lacking[at])).mean
    expected = fitted.fitted.predict(inputs[at]).mean + _TRUST * odd
    return fitted, dict(zip(known.last, np.where(known.lacking[at] > 0, expected, targets[at]).tolist(), strict=True))


@dataclass(frozen=True)
class AtFullBudget:
    """A model of inputs and of what is lacking, where nothing is."""

    model: FittedVectorModel

    def predict(self, inputs: Inputs) -> Prediction:
        """Of inputs (m, d)."""
        return self.model.predict(_told(inputs, np.zeros(len(inputs))))


def _told(inputs: Inputs, lacking: Floats) -> Inputs:
    """Inputs (m, d) and what is lacking (m,) beside them."""
    told: Inputs = np.column_stack([inputs, lacking]).astype(np.float32)
    return told
