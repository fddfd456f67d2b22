"""Search by models of several objectives, and of limits on what has to be measured.

n: architectures, m: objectives, l: limits that are learned, s: draws. Values are turned so that higher is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from raynas.arch import Arch
from raynas.front import improvement, non_dominated, shortfall, undominated
from raynas.history import History, Known
from raynas.model.candidates import random_archs
from raynas.model.predictors import make_predictor
from raynas.model.predictors.base import Floats, Predictor
from raynas.outcome import COSTS, Objective
from raynas.spaces import SearchSpace, known_costs
from searchers.method import Origin, Proposal
from searchers.surrogate import Encoded, Learned, learned

_TIE = 1e-6  # of what promises no improvement the least hopeless is preferred, by this much


class Belief(Protocol):
    """What is believed of one number of any architecture."""

    def mean(self, archs: Sequence[Arch]) -> Floats:
        """(n,) what is expected."""

    def draws(self, archs: Sequence[Arch], count: int, rng: np.random.Generator, factor: float = 1.0) -> Floats:
        """(s, n) what may be, s = `count`, for each architecture on its own."""


@dataclass(frozen=True)
class Computed:
    """A cost, which is known beforehand."""

    space: SearchSpace
    name: str  # one of COSTS
    sign: float

    def mean(self, archs: Sequence[Arch]) -> Floats:
        """(n,) the cost; the worst there is where the network cannot be made."""
        return np.array([self.sign * known_costs(self.space, arch).get(self.name, -self.sign * np.inf) for arch in archs])

    def draws(self, archs: Sequence[Arch], count: int, rng: np.random.Generator, factor: float = 1.0) -> Floats:
        """(s, n) the same each time."""
        return np.tile(self.mean(archs), (count, 1))


@dataclass(frozen=True)
class Modelled:
    """What a model predicts; `exploration`: factor on its deviations."""

    learned: Learned
    exploration: float

    def mean(self, archs: Sequence[Arch]) -> Floats:
        """(n,) what the model expects."""
        return self.learned.target.inverse(self.learned.fitted.predict(archs).mean)

    def draws(self, archs: Sequence[Arch], count: int, rng: np.random.Generator, factor: float = 1.0) -> Floats:
        """(s, n) independent draws (White et al., arXiv 1910.11858, section 4.3)."""
        prediction = self.learned.fitted.predict(archs).widened(factor * self.exploration)
        return self.learned.target.inverse(rng.normal(prediction.mean, prediction.std, (count, len(archs))))


@dataclass(frozen=True)
class Mixed:
    """The mixture of several beliefs of one number."""

    parts: list[Modelled]

    def mean(self, archs: Sequence[Arch]) -> Floats:
        """(n,) the mean of what they expect."""
        expected: Floats = np.mean([part.mean(archs) for part in self.parts], axis=0)
        return expected

    def draws(self, archs: Sequence[Arch], count: int, rng: np.random.Generator, factor: float = 1.0) -> Floats:
        """(s, n) as many from each."""
        shares = np.array_split(np.arange(count), len(self.parts))
        return np.concatenate([part.draws(archs, len(share), rng, factor) for part, share in zip(self.parts, shares, strict=True)])


class Outlook(NamedTuple):
    """What is believed of everything that a search is after."""

    objectives: list[Belief]  # m
    margins: list[Belief]  # l, by how much each limit is kept
    low: Floats  # (m,) worst of what was observed,
    span: Floats  # (m,) and how far that is from the best: the unit of each objective

    def mean(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        """(1, n, m) objectives in their units and (1, n, l) margins that are expected."""
        return self._scaled([belief.mean(archs)[None] for belief in self.objectives]), self._stacked(
            [belief.mean(archs)[None] for belief in self.margins], len(archs)
        )

    def draws(self, archs: Sequence[Arch], count: int, rng: np.random.Generator, factor: float = 1.0) -> tuple[Floats, Floats]:
        """(s, n, m) objectives in their units and (s, n, l) margins as they may be."""
        return self._scaled([belief.draws(archs, count, rng, factor) for belief in self.objectives]), self._stacked(
            [belief.draws(archs, count, rng, factor) for belief in self.margins], len(archs), count
        )

    def _scaled(self, values: list[Floats]) -> Floats:
        scaled: Floats = (np.stack(values, axis=-1) - self.low) / self.span
        return scaled

    @staticmethod
    def _stacked(values: list[Floats], archs: int, count: int = 1) -> Floats:
        return np.stack(values, axis=-1) if values else np.empty((count, archs, 0))


def promise(values: Floats, margins: Floats, front: Floats) -> Floats:
    """(n,) mean over the draws of the hypervolume that each architecture adds to a front (f, m), nothing where it breaks a limit.

    Args:
        values: (s, n, m) objectives in units that make 0 the worst.
        margins: (s, n, l) below 0 where a limit is broken.
    """
    broken = np.maximum(-margins, 0.0).sum(axis=-1)  # (s, n)
    gained = improvement(values, undominated(front, np.zeros(values.shape[-1])))
    lacking = np.maximum(shortfall(values, front), 0.0) if len(front) else 0.0
    expected: Floats = np.where(broken > 0, -_TIE * (10 + broken), gained - _TIE * lacking).mean(axis=0)
    return expected


@dataclass(frozen=True, kw_only=True)
class SeveralObjectives(Encoded):
    """The search of `Encoded` for one objective; with several, and limits on what has to be measured, a model for each of them.

    An architecture is chosen by the hypervolume that draws from all models add to the front of what was observed; costs are
    computed, not learned. Of a batch, each is chosen as if those before it, and what is pending, had come out as expected.

    Args:
        draws: from the models, over which the improvement of the hypervolume is averaged: of one, Thompson sampling.
        second_encoding, second_target: what models of everything but the first objective see and learn.
    """

    draws: int = 1
    second_encoding: str = "adjacency+trunc_path_counts*0.15+scalars"
    second_target: str = "identity"
    second_exploration: float = 1.0
    mixed: bool = False
    hedge: float = 0.0
    boldness: float = 3.0
    second_predictor: str = "mlp"
    second_options: Mapping[str, Any] = field(default_factory=dict)

    several: ClassVar[bool] = True

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        if history.objective.single:
            return super().propose(space, history, rng, count)
        lineage: dict[str, str] = {}
        pool = self.begin(space, history, rng, count, lineage)
        if len(pool) < count:
            pool += random_archs(space, {*history.observed, *history.pending, *(arch.id for arch in pool)}, rng, count - len(pool))
        known = history.known()
        if not known.archs or not pool:
            return Proposal(pool[:count])
        outlook = self._outlook(space, known, history.objective, rng)
        vectors = (known.vectors[known.excess <= 0] - outlook.low) / outlook.span
        front = vectors[non_dominated(vectors)]
        front = self._with(front, *outlook.mean(list(history.pending.values()))) if history.pending else front
        pool = self.climb(space, history, rng, count, pool, lambda archs: promise(*outlook.mean(archs), front), lineage)
        expected = outlook.mean(pool)
        chosen, scores = list[int](), list[float]()
        for _ in range(min(count, len(pool))):
            bold = rng.random() < self.hedge
            score = promise(*outlook.draws(pool, 1 if bold else self.draws, rng, self.boldness if bold else 1.0), front)
            score[chosen] = -np.inf
            chosen.append(int(score.argmax()))
            scores.append(float(score[chosen[-1]]))
            front = self._with(front, *(each[:, chosen[-1:]] for each in expected))
        first = (outlook.low + outlook.span * expected[0][0])[chosen, 0]
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

    @staticmethod
    def _with(front: Floats, values: Floats, margins: Floats) -> Floats:
        """The front with what is expected of further architectures, where it keeps the limits."""
        points = np.concatenate([front, values[0][(margins[0] >= 0).all(axis=-1)]])
        return points[non_dominated(points)]

    def _outlook(self, space: SearchSpace, known: Known, objective: Objective, rng: np.random.Generator) -> Outlook:
        def belief(values: Floats, predictor: Predictor, target: str) -> Belief:
            first = target == self.target
            targets = target.split("+") if self.mixed and first else [target]
            factor = self.exploration if first else self.second_exploration
            return Mixed([Modelled(learned(predictor, space, known.archs, values, each, rng), factor) for each in targets])

        second = make_predictor(self.second_predictor, self.second_options, self.second_encoding)
        objectives = list[Belief]()
        for i, metric in enumerate(objective.metrics):
            if metric.name in COSTS:
                objectives.append(Computed(space, metric.name, -1.0 if metric.direction == "min" else 1.0))
            elif i == 0:
                objectives.append(belief(known.vectors[:, i], self.model(), self.target))
            else:
                objectives.append(belief(known.vectors[:, i], second, self.second_target))
        margins = [belief(-known.over[:, i], second, "identity") for i in objective.measured_limits]
        low, span = known.vectors.min(axis=0), np.ptp(known.vectors, axis=0)
        return Outlook(objectives, margins, low, np.where(span > 0, span, 1.0))
