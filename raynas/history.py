"""What a search knows: architectures that finished, were stopped, failed, or are pending; and their learning curves.

n: architectures, m: objectives, l: limits. All values are to be maximised.
"""

import math
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.outcome import Merit, Objective, Status, excess_of

Curve = tuple[tuple[float, float], ...]  # (budget, value of the first objective) pairs, budgets ascending
Floats = NDArray[np.float64]

_CURVE_RATIO = 1.1  # a report closer than this factor to the last kept one replaces it, so that 1,000 epochs keep 65 points


@dataclass(frozen=True)
class Observation:
    """An architecture whose evaluation has ended."""

    arch: Arch
    status: Status
    curve: Curve  # empty where the trial failed before its first report
    others: tuple[float, ...] = ()  # (m - 1,) values of the further objectives at the end
    over: tuple[float, ...] = ()  # (l,) by how much it breaks each limit, below 0 where it keeps it

    @property
    def budget(self) -> float:
        """The largest budget that it reached."""
        return self.curve[-1][0] if self.curve else 0.0

    @property
    def value(self) -> float:
        """The value at that budget; -inf for a failed trial."""
        return self.curve[-1][1] if self.curve and self.status != "failed" else -math.inf

    @property
    def excess(self) -> float:
        """How far it breaks the limits, all together."""
        return excess_of(self.over)

    @property
    def merit(self) -> Merit:
        """Its place in the order of outcomes."""
        return Merit(-self.excess, self.status == "finished", (self.value, *self.others))

    def check(self, objective: Objective) -> None:
        """Raises ConfigError unless it has a value for each metric of `objective`, or has failed."""
        if self.status != "failed" and len(self.others) != len(objective.metrics) - 1:
            wanted = ", ".join(metric.name for metric in objective.metrics)
            raise ConfigError(f"an observation of {self.arch.id} must have a value for each of {wanted}")

    def value_at(self, budget: float) -> float | None:
        """The value at `budget`, or at the largest reported budget below it."""
        at = bisect_right(self.curve, budget, key=lambda point: point[0])
        return self.curve[at - 1][1] if at else None


@dataclass(frozen=True, eq=False)
class Prior:
    """What another search has found on other data, or by another training: values in units of their own, whose order says something."""

    archs: tuple[Arch, ...]  # (n,) best first
    values: Floats  # (n,) of the first objective, at the full budget there


class Row(NamedTuple):
    """One measurement."""

    arch: Arch
    budget: float
    value: float
    status: Status | Literal["running"]  # of the trial that made it


class Known(NamedTuple):
    """What is known at the full budget, measured or carried there, in order of completion."""

    archs: list[Arch]  # (n,)
    vectors: Floats  # (n, m)
    over: Floats  # (n, l) by how much each limit is broken, below 0 where it is kept

    @property
    def excess(self) -> Floats:
        """(n,) how far the limits are broken, all together."""
        summed: Floats = np.maximum(self.over, 0.0).sum(axis=1)
        return summed


class Carry(Protocol):
    """What a stopped trial would have gained until the full budget: a rule that learns from the finished ones."""

    def add(self, finished: Observation) -> None:
        """One more trial has finished."""

    def gain(self, budget: float) -> float:
        """What is to be added to a value at `budget`."""


class MedianGain:
    """The median of what the finished trials gained from that budget on.

    So a stopped trial stays comparable, and below survivors that gained as much.
    """

    def __init__(self) -> None:
        self._finished: list[Observation] = []
        self._gains: dict[float, list[float]] = {}  # those of the finished trials, ascending, from each budget that was asked for

    def add(self, finished: Observation) -> None:
        """As `Carry.add`; a few comparisons for each budget that was asked for."""
        self._finished.append(finished)
        for budget, gains in self._gains.items():
            if (at := finished.value_at(budget)) is not None:
                insort(gains, finished.value - at)

    def gain(self, budget: float) -> float:
        """As `Carry.gain`; 0 where no finished trial tells."""
        if budget not in self._gains:
            self._gains[budget] = sorted(o.value - at for o in self._finished if (at := o.value_at(budget)) is not None)
        gains = self._gains[budget]
        return (gains[(len(gains) - 1) // 2] + gains[len(gains) // 2]) / 2 if gains else 0.0


class Update(NamedTuple):
    """What another history needs to become a copy of this one."""

    added: list[Observation | Prior]
    pending: dict[str, Arch]
    curves: dict[str, list[tuple[float, float]]]
    memory: Any
    objective: Objective


class History:
    """Observed and pending architectures of one search, by id.

    An architecture is observed once: a second result for the same id is ignored, so late or repeated notifications change nothing,
    unless it was stopped before and the new one reached a larger budget.

    Args:
        carry: makes the rule by which values of stopped trials are carried to the full budget.
        objective: what the values are of.
    """

    def __init__(self, carry: Callable[[], Carry] = MedianGain, objective: Objective | None = None) -> None:
        self.objective = objective or Objective()
        self.observed: dict[str, Observation] = {}  # in order of completion
        self.pending: dict[str, Arch] = {}
        self.memory: Any = None  # plain JSON: what the method remembers beyond all this, see `searchers.Proposal`
        self.priors: list[Prior] = []
        self._curves: dict[str, list[tuple[float, float]]] = {}  # of pending architectures
        self._added: list[Observation | Prior] = []  # every one that was added
        self._make_carry = carry
        self._carry = carry()

    def __len__(self) -> int:
        return len(self.observed) + sum(arch_id not in self.observed for arch_id in self.pending)

    def __contains__(self, arch_id: object) -> bool:
        return arch_id in self.observed or arch_id in self.pending

    # -- what happens --------------------------------------------------------------------------------------------------------

    def start(self, arch: Arch) -> None:
        """`arch` is being evaluated; one that was stopped before may be, too."""
        self.pending[arch.id] = arch

    def report(self, arch_id: str, budget: float, value: float) -> None:
        """An intermediate value of a pending architecture; values that are not finite, and budgets seen before, are ignored."""
        before = self.observed.get(arch_id)
        if arch_id not in self.pending or not math.isfinite(value) or (before is not None and budget <= before.budget):
            return
        curve = self._curves.setdefault(arch_id, [])
        if curve and budget <= curve[-1][0]:
            return
        if len(curve) > 1 and budget < curve[-2][0] * _CURVE_RATIO:
            curve.pop()
        curve.append((budget, value))

    def next_budget(self, arch_id: str) -> float:
        """The budget of a report of a pending architecture that does not tell it: one more than the last."""
        curve = self._curves.get(arch_id)
        return curve[-1][0] + 1 if curve else 1.0

    def end(
        self, arch_id: str, status: Status, budget: float = 0.0, vector: tuple[float, ...] | None = None, over: tuple[float, ...] = ()
    ) -> None:
        """The evaluation of a pending architecture ended, with these values at `budget`; None: with those that it reported last.

        Without any finite value it counts as failed.
        """
        arch = self.pending.pop(arch_id, None)
        curve = self._curves.pop(arch_id, [])
        if arch is None:
            return
        if vector is not None:
            if curve and curve[-1][0] >= budget:
                budget = curve.pop()[0]
            curve.append((budget, vector[0]))
        self.add(Observation(arch, status if curve else "failed", tuple(curve), (vector or ())[1:], over))

    def withdraw(self, arch_id: str) -> None:
        """The evaluation of a pending architecture never took place; it may be proposed again."""
        self.pending.pop(arch_id, None)
        self._curves.pop(arch_id, None)

    def add(self, observation: Observation) -> None:
        """An observation made elsewhere, for instance before a restart; what went on keeps what it had reported before it was stopped."""
        arch_id = observation.arch.id
        self.withdraw(arch_id)
        before = self.observed.get(arch_id)
        if before is not None and (before.status != "stopped" or observation.status == "failed" or observation.budget <= before.budget):
            return
        if before is not None:
            earlier = tuple(point for point in before.curve if point[0] < observation.curve[0][0])
            observation = replace(observation, curve=earlier + observation.curve)
            del self.observed[arch_id]  # what is newer comes last
        self.observed[arch_id] = observation
        self._added.append(observation)
        if observation.status == "finished":
            self._carry.add(observation)

    def add_prior(self, prior: Prior) -> None:
        """What another search has found; its architectures do not count as observed."""
        self.priors.append(prior)
        self._added.append(prior)

    # -- copies --------------------------------------------------------------------------------------------------------------

    @property
    def additions(self) -> int:
        """How often an observation or a prior was added."""
        return len(self._added)

    def since(self, additions: int) -> Update:
        """What changed after the first `additions`; later changes do not touch it."""
        curves = {arch_id: list(curve) for arch_id, curve in self._curves.items()}
        return Update(self._added[additions:], dict(self.pending), curves, self.memory, self.objective)

    def follow(self, update: Update) -> None:
        """Takes over what changed in a history of which this is an older copy."""
        for each in update.added:
            if isinstance(each, Prior):
                self.add_prior(each)
            else:
                self.add(each)
        self.pending, self._curves, self.memory, self.objective = update.pending, update.curves, update.memory, update.objective

    def copy(self) -> "History":
        """A snapshot that later changes do not touch."""
        other = self.anew()
        other.follow(self.since(0))
        return other

    def anew(self) -> "History":
        """One with the same rules, of which nothing is known yet."""
        return History(self._make_carry, self.objective)

    # -- what is known -------------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """Every measurement: those of ended trials in order of completion, then those of running ones; a failed trial's, too."""
        for observation in self.observed.values():
            for budget, value in observation.curve:
                yield Row(observation.arch, budget, value, observation.status)
        for arch_id, curve in self._curves.items():
            for budget, value in curve:
                yield Row(self.pending[arch_id], budget, value, "running")

    def known(self, last: int | None = None) -> Known:
        """What is known at the full budget; only of the `last` trials that did not fail.

        A stopped trial has no value at full budget: the value of its last report is carried there. Failed trials are left out: a lost
        node says nothing about an architecture.
        """
        usable = (o for o in reversed(self.observed.values()) if o.status != "failed")
        chosen = list(islice(usable, last))[::-1]
        firsts = [o.value if o.status == "finished" else o.value + self._carry.gain(o.budget) for o in chosen]
        vectors = np.array([(first, *o.others) for first, o in zip(firsts, chosen, strict=True)] or np.empty((0, 1)))
        return Known([o.arch for o in chosen], vectors, np.array([o.over for o in chosen] or np.empty((0, 0))))

    def targets(self, last: int | None = None) -> tuple[list[Arch], Floats]:
        """(n,) architectures and (n,) values of the first objective, as in `known`."""
        known = self.known(last)
        return known.archs, known.vectors[:, 0]

    def best(self) -> Observation | None:
        """The observation that is best; None where all failed."""
        usable = [o for o in self.observed.values() if o.status != "failed"]
        return max(usable, key=lambda o: o.merit, default=None)

    # -- state ---------------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of the whole state."""
        observed = [
            [o.arch.to_config(), o.status, [list(point) for point in o.curve], list(o.others), list(o.over)] for o in self.observed.values()
        ]
        pending = [[arch.to_config(), [list(p) for p in self._curves.get(arch.id, [])]] for arch in self.pending.values()]
        priors = [[[arch.to_config() for arch in prior.archs], prior.values.tolist()] for prior in self.priors]
        return {"observed": observed, "pending": pending, "memory": self.memory, "priors": priors}

    @classmethod
    def from_json(cls, state: Mapping[str, Any], carry: Callable[[], Carry] = MedianGain, objective: Objective | None = None) -> "History":
        """The inverse of `to_json`."""
        history = cls(carry, objective)
        for config, status, curve, others, over in state["observed"]:
            points = tuple((float(b), float(v)) for b, v in curve)
            history.add(Observation(Arch.from_config(config), status, points, tuple(map(float, others)), tuple(map(float, over))))
        for config, curve in state["pending"]:
            arch = Arch.from_config(config)
            history.start(arch)
            history._curves[arch.id] = [(float(b), float(v)) for b, v in curve]
        history.memory = state["memory"]
        for configs, values in state.get("priors", ()):  # an older state has none
            history.add_prior(Prior(tuple(map(Arch.from_config, configs)), np.array(values, dtype=np.float64)))
        return history
