"""Regularized evolution (Real et al., AAAI 2019, arXiv 1802.01548), asynchronous. n: architectures."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.front import ranked
from raynas.history import History
from raynas.model.candidates import distinct
from raynas.spaces import SearchSpace
from searchers.method import Method, Origin, Proposal


@dataclass(frozen=True, kw_only=True)
class Evolution(Method):
    """The parent is the best of a random tournament among the youngest `population` evaluated architectures.

    Ageing needs no clock: the population is the last `population` completions, so the oldest leaves when a new one comes, good
    or bad (section 2 of the paper, algorithm 1). Unlike there, a child that was evaluated before is mutated anew, and one within the
    limits beats one beyond.

    With several objectives it is NSGA-II (Deb et al. 2002), asynchronous likewise and without crossover: the population are the best of
    all evaluated, front by front and of a front those least crowded, and these win tournaments.

    Args:
        population: size of the population; 30 as in the comparison of BANANAS.
        tournament: how many are drawn, with replacement; 10 as there.
        rate: expected edits of each kind in a mutation.
    """

    population: int = 30
    tournament: int = 10
    rate: float = 1.0

    several: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.population, self.tournament) < 1:
            raise ConfigError(f"population and tournament must be at least 1, not {self.population} and {self.tournament}")

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """`count` children of tournament winners; none where mutation finds nothing new."""
        archs, fitness = self._population(history)

        lineage: dict[str, str] = {}

        def child() -> Arch:
            drawn = rng.integers(len(archs), size=self.tournament)
            parent = archs[drawn[np.argmax(fitness[drawn])]]
            made = space.mutate(parent, rng, self.rate)
            lineage.setdefault(made.id, parent.id)
            return made

        children = distinct(child, count, history) if archs else []
        return Proposal(children, origins=[Origin("mutation", lineage[arch.id]) for arch in children])

    def _population(self, history: History) -> tuple[list[Arch], NDArray[np.float64]]:
        """(n,) those from which parents are drawn, and how fit they are; higher is better."""
        if len(history.objective.metrics) > 1:
            known = history.known()
            best = ranked(known.vectors, known.excess, self.population)[: self.population]
            return [known.archs[i] for i in best], -np.arange(len(best), dtype=np.float64)
        known = history.known(last=self.population)
        first, excess = known.vectors[:, 0], known.excess
        return known.archs, np.where(excess > 0, first.min(initial=0.0) - excess, first)
