"""Search by models of several objectives, and of limits on what has to be measured.

n: architectures, m: objectives, l: limits that are learned, s: draws, f: points of a front. Values are turned so that higher is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.front import improvement, non_dominated, shortfall, undominated
from raynas.history import History, Known
from raynas.model.predictors.base import Floats
from raynas.outcome import COSTS, Metric, Objective
from raynas.spaces import SearchSpace, known_costs
from searchers.method import Origin, Proposal
from searchers.surrogate import Encoded, Learned, learned

_TIE = 1e-6  # of what promises no improvement the least hopeless is preferred, by this much
# What has bounds, as accuracies have, is learned by ranks, which broken architectures cannot stretch: they find a front's ends. What is
# missing later lies among the best, where ranks crowd: then ranks and log errors take turns at random. A latency is learned as it is.
_YOUNG, _EARLY, _LATE, _UNBOUNDED = 60, "open_rank_gauss", "open_rank_gauss+log_error", "identity"
_ROUNDS = 40  # in which a batch is chosen: of more, some at once
_BROKEN = 10.0  # in the units of objectives: what is beyond a limit is worse than anything within


class Forecast(NamedTuple):
    """What is believed of one number of n architectures: independent normal distributions of what `learned` has learned."""

    mean: Floats  # (n,)
    std: Floats  # (n,)
    learned: Learned | None  # None: the number itself

    def expected(self) -> Floats:
        """(n,) the number itself."""
        return self.mean if self.learned is None else self.learned.target.inverse(self.mean)

    def draws(self, count: int, rng: np.random.Generator, factor: float = 1.0) -> Floats:
        """(s, n) what it may be, s = `count` (independent Thompson sampling: White et al., arXiv 1910.11858, section 4.3).

        `factor`: on deviations.
        """
        if self.learned is None:
            return np.tile(self.mean, (count, 1))
        return self.learned.target.inverse(rng.normal(self.mean, factor * self.std, (count, len(self.mean))))


class Belief(Protocol):
    """What is known of one number of any architecture."""

    def __call__(self, archs: Sequence[Arch], /) -> Forecast:
        """What it is expected to be."""


@dataclass(frozen=True)
class Computed:
    """A cost is known beforehand."""

    space: SearchSpace
    name: str  # one of COSTS
    sign: float

    def __call__(self, archs: Sequence[Arch], /) -> Forecast:
        """The cost; the worst there is where the network cannot be made."""
        costs = np.array([self.sign * known_costs(self.space, arch).get(self.name, -self.sign * np.inf) for arch in archs])
        return Forecast(costs, np.zeros(len(archs)), None)


@dataclass(frozen=True)
class Modelled:
    """A model has learned it."""

    learned: Learned

    def __call__(self, archs: Sequence[Arch], /) -> Forecast:
        """What the model predicts."""
        prediction = self.learned.fitted.predict(archs)
        return Forecast(prediction.mean, prediction.std, self.learned)


class Points(NamedTuple):
    """Architectures as a search sees them."""

    objectives: Floats  # (s, n, m) in units that make the best that was observed 1 and the worst, the reference, 0
    margins: Floats  # (s, n, l) by how much limits are kept, below 0 where they are broken

    def promise(self, front: Floats) -> Floats:
        """(n,) mean over the draws of the hypervolume that each adds to a front (f, m), nothing where it breaks a limit."""
        boxes = undominated(front, np.zeros(self.objectives.shape[-1]))
        mean: Floats = np.mean([_gain(*draw, front, boxes) for draw in zip(self.objectives, self.margins, strict=True)], axis=0)
        return mean

    def along(self, direction: Floats) -> Floats:
        """(n,) how far the first draw of each reaches in a direction (m,); what breaks a limit is worse than all that does not.

        Its power m is the scalarisation whose mean over random directions is the hypervolume (Golovin, Zhang, arXiv 2006.04655).
        """
        broken = _broken(self.margins[0])
        reach: Floats = (self.objectives[0] / direction).min(axis=-1)
        return np.where(broken > 0, reach.min() - broken, reach)

    def joining(self, front: Floats, indices: Sequence[int]) -> Floats:
        """The front with some of them, of one draw, where they keep the limits."""
        kept = [i for i in indices if (self.margins[0, i] >= 0).all()]
        points = np.concatenate([front, self.objectives[0, kept]])
        return points[non_dominated(points)]


def _gain(objectives: Floats, margins: Floats, front: Floats, boxes: Floats) -> Floats:
    """(n,) of one draw, (n, m) and (n, l); `boxes`: what the front leaves. One draw at a time, as boxes may be many."""
    broken = _broken(margins)
    lacking = np.maximum(shortfall(objectives, front), 0.0) if len(front) else 0.0
    return np.where(broken > 0, -_TIE * (_BROKEN + broken), improvement(objectives, boxes) - _TIE * lacking)


def _broken(margins: Floats) -> Floats:
    """(...,) by how much limits are broken, of margins (..., l)."""
    broken: Floats = np.maximum(-margins, 0.0).sum(axis=-1)
    return broken


class Outlook(NamedTuple):
    """What is believed of everything that a search is after."""

    objectives: list[Belief]  # m
    margins: list[Belief]  # l
    low: Floats  # (m,) the worst that was observed,
    span: Floats  # (m,) and how far that is from the best

    def forecasts(self, archs: Sequence[Arch]) -> "Forecasts":
        """What is expected of n architectures."""
        return Forecasts(self, [belief(archs) for belief in (*self.objectives, *self.margins)])


class Forecasts(NamedTuple):
    """All that is believed of n architectures."""

    outlook: Outlook
    each: list[Forecast]  # m + l

    def expected(self) -> Points:
        """One draw, which is the mean."""
        return self._points([forecast.expected()[None] for forecast in self.each])

    def draws(self, count: int, rng: np.random.Generator, factor: float = 1.0) -> Points:
        """So many draws; `factor`: on deviations."""
        return self._points([forecast.draws(count, rng, factor) for forecast in self.each])

    def _points(self, values: list[Floats]) -> Points:
        stacked, objectives = np.stack(values, axis=-1), len(self.outlook.objectives)
        return Points((stacked[..., :objectives] - self.outlook.low) / self.outlook.span, stacked[..., objectives:])


@dataclass(frozen=True, kw_only=True)
class SeveralObjectives(Encoded):
    """The search of `Encoded` for one objective; with several, and limits on what has to be measured, a model for each of them.

    An architecture is chosen by the hypervolume that it is expected to add to the front of what was observed (Emmerich, Giannakoglou,
    Naujoks 2006), nothing where it breaks a limit; every second one by how far it reaches in a random direction in a single draw with
    deviations widened by `exploration`, which goes on where the models expect no gain. Costs are computed, not learned. Of a batch, each
    is chosen as if those before it, and what is pending, had come out as expected. `target` and `acquisition` are those of one objective.

    Args:
        draws: from the models, over which that expectation is taken.
    """

    draws: int = 16

    several: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise ConfigError(f"draws must be at least 1, not {self.draws}")

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        if history.objective.single:
            return super().propose(space, history, rng, count)
        lineage: dict[str, str] = {}
        pool = self.pool_of(space, history, rng, count, lineage)
        known = history.known()
        if not known.archs or not pool:
            return Proposal(pool[:count])
        outlook = self._outlook(space, known, history.objective, rng)
        observed = (known.vectors[known.excess <= 0] - outlook.low) / outlook.span
        front = observed[non_dominated(observed)]
        if pending := list(history.pending.values()):
            front = outlook.forecasts(pending).expected().joining(front, range(len(pending)))
        pool = self.climb(space, history, rng, count, pool, lambda archs: outlook.forecasts(archs).expected().promise(front), lineage)
        forecasts = outlook.forecasts(pool)
        expected, chosen, scores = forecasts.expected(), list[int](), list[float]()
        count = min(count, len(pool))
        directed = count == 1 and bool(rng.random() < 0.5)
        while len(chosen) < count:
            if directed:
                direction = np.abs(rng.normal(size=front.shape[1])) + _TIE  # no objective counts for nothing
                score = forecasts.draws(1, rng, self.exploration).along(direction)
            else:
                score = forecasts.draws(self.draws, rng).promise(front)
            directed = not directed
            score[chosen] = -np.inf
            best = np.argsort(-score, kind="stable")[: min(-(-count // _ROUNDS), count - len(chosen))].tolist()
            chosen += best
            scores += score[best].tolist()
            front = expected.joining(front, best)
        first = forecasts.each[0].expected()[chosen]
        origins = [Origin("model", lineage.get(pool[i].id), score) for i, score in zip(chosen, scores, strict=True)]
        return Proposal([pool[i] for i in chosen], first.tolist(), origins=origins)

    def stale(self, history: History) -> int:
        """Evaluations since the newest one on the front."""
        if history.objective.single:
            return super().stale(history)
        known = history.known()
        within = np.flatnonzero(known.excess <= 0)
        front = within[non_dominated(known.vectors[within])]
        return len(known.archs) - 1 - int(front[-1]) if len(front) else 0

    def _outlook(self, space: SearchSpace, known: Known, objective: Objective, rng: np.random.Generator) -> Outlook:
        def belief(metric: Metric, values: Floats) -> Belief:
            bounded = isfinite(metric.low) and isfinite(metric.high)
            target = (_EARLY if len(values) < _YOUNG else _LATE) if bounded else _UNBOUNDED
            # Costs are nearly sums over operations, so these are seen, too, where the space tells them.
            encoding = self.encoding if bounded or not space.adjacency_sizes else f"adjacency+{self.encoding}"
            return Modelled(learned(self.seeing(encoding), space, known.archs, values, target, rng))

        objectives = [
            Computed(space, metric.name, -1.0 if metric.direction == "min" else 1.0)
            if metric.name in COSTS
            else belief(metric, known.vectors[:, i])
            for i, metric in enumerate(objective.metrics)
        ]
        margins = [belief(Metric(objective.limits[i].metric), -known.over[:, i]) for i in objective.measured_limits]
        span = np.ptp(known.vectors, axis=0)
        return Outlook(objectives, margins, known.vectors.min(axis=0), np.where(span > 0, span, 1.0))
