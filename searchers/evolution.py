"""Regularized evolution (Real et al., AAAI 2019, arXiv 1802.01548), asynchronous. n: architectures, m: objectives."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History, Known
from raynas.model.candidates import distinct
from raynas.spaces import SearchSpace
from searchers.method import Method, Origin, Proposal


@dataclass(frozen=True, kw_only=True)
class Evolution(Method):
    """The parent is the best of a random tournament among the youngest `population` evaluated architectures.

    Ageing needs no clock: the population is the last `population` completions, so the oldest leaves when a new one comes, good
    or bad (section 2 of the paper, algorithm 1). Unlike there, a child that was evaluated before is mutated anew. Of several objectives
    the one that fewest of the population dominate wins, and one within the limits beats one beyond.

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
        known = history.known(last=self.population)
        archs, fitness = known.archs, _fitness(known)

        lineage: dict[str, str] = {}

        def child() -> Arch:
            drawn = rng.integers(len(archs), size=self.tournament)
            parent = archs[drawn[np.argmax(fitness[drawn])]]
            made = space.mutate(parent, rng, self.rate)
            lineage.setdefault(made.id, parent.id)
            return made

        children = distinct(child, count, history) if archs else []
        return Proposal(children, origins=[Origin("mutation", lineage[arch.id]) for arch in children])


def _fitness(known: Known) -> NDArray[np.float64]:
    """(n,) higher is better: the value itself of a single objective without limits, else minus the number of those that dominate.

    What exceeds the limits less dominates what exceeds them more (Deb 2000, constrained domination).
    """
    vectors, excess = known.vectors, known.excess
    if vectors.shape[1] == 1 and not excess.any():
        first: NDArray[np.float64] = vectors[:, 0]
        return first
    no_worse = (vectors[:, None] >= vectors).all(axis=2)  # (n, n) row against column
    dominates = np.where(excess[:, None] == excess, no_worse & ~no_worse.T, excess[:, None] < excess)
    dominated: NDArray[np.float64] = -dominates.sum(axis=0, dtype=np.float64)
    return dominated
