"""What a search method is: a value that holds its settings, and a pure function of what is known."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError
from raynas.front import MOST
from raynas.history import Carry, History, MedianGain
from raynas.model.recommend import LIBRARIES, RECOMMENDERS
from raynas.outcome import COSTS, Objective
from raynas.registry import resolve
from raynas.spaces import SearchSpace
from raynas.spaces.derived import Limited
from searchers.initial import at_random

_MANY = 1000  # completed trials beyond which fits become rarer as their number grows


@dataclass(frozen=True)
class Origin:
    """How an architecture came to be proposed."""

    by: str  # as the column proposed_by of raynas.columns says, or what a method of one's own calls it
    parent: str | None = None  # the id of the architecture that it is a mutation of
    acquisition: float | None = None  # the value of the acquisition function, among the candidates of one fit
    deviation: float | None = None  # standard deviation of what the model expects, in units of the first objective


@dataclass(frozen=True)
class Suggestion:
    """An architecture to evaluate."""

    arch: Arch
    budget: float | None = None  # how much the evaluation may spend; None: a full one
    expected: float | None = None  # what the model expects of it: of the first objective, turned so that higher is better
    origin: Origin = Origin("method")

    def to_json(self) -> list[Any]:
        """Plain JSON of it."""
        return [self.arch.to_config(), self.budget, self.expected, *astuple(self.origin)]

    @classmethod
    def from_json(cls, plain: Sequence[Any]) -> "Suggestion":
        """The inverse of `to_json`."""
        config, budget, expected, *origin = plain
        return cls(Arch.from_config(config), budget, expected, *([Origin(*origin)] if origin else []))


@dataclass(frozen=True)
class Proposal:
    """Architectures to evaluate, best first.

    Args:
        expected: what the model expects of each, in units of the first objective; None: it was not asked.
        budgets: how much each evaluation may spend; None: a full one. An architecture that was stopped may come again with more.
        memory: plain JSON that the next call finds as `history.memory`; None: it stays as it is.
        origins: how each came about, where the method says so.
        forecasts: by id, what is expected of architectures that were evaluated, at the full budget: for schedulers that ask what is to go
            on. In any units in which higher is better.
    """

    archs: Sequence[Arch]
    expected: Sequence[float | None] = ()
    budgets: Sequence[float | None] = ()
    memory: Any = None
    origins: Sequence[Origin] = ()
    forecasts: Mapping[str, float] = field(default_factory=dict)

    def check(self, space: SearchSpace) -> None:
        """Raises OutOfSpaceError unless all that is proposed is of `space`, and within what a table or limits leave of it."""
        for arch in self.archs:
            if not isinstance(arch, Arch) or not space.contains(arch):
                raise OutOfSpaceError(f"what was proposed is not of the space {space.name}: {arch}")

    def suggestions(self) -> Iterator[Suggestion]:
        """The architectures, each with what is known of it."""
        count = len(self.archs)
        expected, budgets = [*self.expected, *[None] * count], [*self.budgets, *[None] * count]
        origins = [*self.origins, *[Origin("method")] * count]
        return map(Suggestion, self.archs, budgets, expected, origins)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Base of all methods; a method of one's own subclasses it as a frozen dataclass and implements `propose`.

    Args:
        num_initial: random architectures before the method takes over.
        refit_every: completed trials after which a method that learns is asked again, at most; of more than 1,000, so many of each 1,000,
            so that ten times as many trials need little more than twice as many fits.
        refit_share: the same as a share of all completed trials, so that a young search, where each result says much, refits often.
        recommender: one of raynas.model.recommend.RECOMMENDERS: how the architecture is chosen that is recommended in the end.
    """

    num_initial: int = 10
    refit_every: int = 10
    refit_share: float = 0.3
    recommender: str = "observed"

    learns: ClassVar[bool] = False  # whether a model is fitted, and so a process beside the control loop and a queue are worth it
    informed: ClassVar[bool] = False  # whether that model learns from the priors in the history, too, where there is one objective
    carry: ClassVar[type[Carry]] = MedianGain  # the rule by which what was stopped early is carried to the full budget
    several: ClassVar[bool] = False  # whether it knows what to do with several objectives, and with limits on what has to be measured

    def __post_init__(self) -> None:
        if self.num_initial < 1 or self.refit_every < 1:
            raise ConfigError(f"num_initial and refit_every must be at least 1, not {self.num_initial} and {self.refit_every}")
        resolve(RECOMMENDERS, self.recommender, "recommender")

    def check(self, space: SearchSpace) -> None:  # noqa: B027  # nothing to check unless a method says so
        """Raises a RaynasError where the settings do not go with the space; called before a search begins."""

    def batch(self, completed: int) -> int:
        """Trials from one fit to the next, of which there have been `completed` before."""
        return max(1, min(self.full_batch(completed), int(self.refit_share * completed))) if self.learns else 1

    def full_batch(self, completed: int) -> int:
        """The same of a search that is not young any more."""
        return self.refit_every * max(completed, _MANY) // _MANY

    def warm_up(self, space: SearchSpace) -> None:  # noqa: B027  # nothing to load unless a method says so
        """Loads what proposals need; called where they are made in a process of its own, while the first trials run."""

    def load(self) -> None:
        """Loads what `recommend` needs, while there is time for it."""
        if library := LIBRARIES.get(self.recommender):
            import_module(library)

    @abstractmethod
    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """Up to `count` new architectures, best first; reads its arguments only. Called once `num_initial` are known."""

    def stopgap(self, space: SearchSpace, history: History, rng: np.random.Generator) -> Arch | None:
        """An architecture at once, while a model is fitted and nothing is left of the last proposal; None where the space holds no more."""
        return at_random(space, history, rng)

    def recommend(self, space: SearchSpace, history: History) -> Arch | None:
        """The architecture to choose after what is known now; None before any result."""
        chosen: Arch | None = resolve(RECOMMENDERS, self.recommender, "recommender")(space, history, self)
        return chosen


@dataclass(frozen=True, kw_only=True)
class FunctionMethod(Method):
    """The method that a function alone defines, which is called as `Method.propose` is."""

    function: Callable[[SearchSpace, History, np.random.Generator, int], Proposal]

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """What the function proposes."""
        return self.function(space, history, rng, count)


@dataclass(frozen=True, kw_only=True)
class OneShot(Method):
    """A search by training one network which holds all cells: DARTS, PC-DARTS, and random search with weight sharing.

    What finds the architectures is a trial of its own, run before any other; what it found comes first in the queue
    (`Engine.enqueue`), and nothing is proposed after that.

    Args:
        trial: `module:Class` of the trial that trains a supernet and reads a cell off it.
        options: its settings, the fields of its `Options`.
    """

    trial: str
    options: Mapping[str, Any] = field(default_factory=dict)
    num_initial: int = 0  # nothing random: the supernets have found what there is to evaluate

    def __post_init__(self) -> None:
        pass  # the trial checks its options

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """Nothing more."""
        return Proposal(())

    def stopgap(self, space: SearchSpace, history: History, rng: np.random.Generator) -> Arch | None:
        """None, likewise."""
        return None


def check_objective(method: Method, objective: Objective) -> None:
    """Raises ConfigError where a method cannot pursue an objective."""
    name, others = type(method).__name__, "use bananas, evolution or random"
    if method.several and (not method.learns or len(objective.metrics) <= MOST):
        return
    if method.several:
        raise ConfigError(f"{name} takes up to {MOST} objectives, not {len(objective.metrics)}; use evolution or random for more")
    if len(objective.metrics) > 1:
        raise ConfigError(f"{name} optimises one objective, not {len(objective.metrics)}; {others} for several")
    for limit in objective.limits:
        if limit.metric not in COSTS:
            known = " and ".join(COSTS)
            raise ConfigError(f"{name} keeps limits on {known} only, which are known beforehand; {others} for one on {limit.metric}")


def within_limits(space: SearchSpace, objective: Objective) -> SearchSpace:
    """The part of `space` that keeps the limits on what is known beforehand; raises ConfigError where nothing does."""
    if not any(limit.metric in COSTS for limit in objective.limits):
        return space
    limited = Limited(space, objective.known_excess)
    arch = limited.sample(np.random.default_rng(0))
    if limited.excess(arch):
        limits = ", ".join(f"{limit.metric}{limit.relation}{limit.bound:g}" for limit in objective.limits if limit.metric in COSTS)
        cost = space.cost(arch)
        closest = f"the closest of 1,000 random ones has {cost.parameters:,} parameters and {cost.flops:,} flops"
        raise ConfigError(f"no architecture of {space.name} was found within {limits}: {closest}; widen the limits")
    return limited
