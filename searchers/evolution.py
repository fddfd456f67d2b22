"""Regularized evolution (Real et al., AAAI 2019, arXiv 1802.01548), asynchronous."""

from typing import Any

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.model.candidates import distinct
from searchers.base import ArchSearcher, Proposal


class RegularizedEvolutionSearch(ArchSearcher):
    """The parent is the best of a random tournament among the youngest `population` evaluated architectures.

    Ageing needs no clock: the population is the last `population` completions, so the oldest leaves when a new one comes, good
    or bad (section 2 of the paper, algorithm 1). Unlike there, a child that was evaluated before is mutated anew.

    Args:
        population: size of the population; 30 as in the comparison of BANANAS.
        tournament: how many are drawn, with replacement; 10 as there.
        rate: expected edits of each kind in a mutation.
    """

    def __init__(self, *args: Any, population: int = 30, tournament: int = 10, rate: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        if min(population, tournament) < 1:
            raise ConfigError(f"population and tournament must be at least 1, not {population} and {tournament}")
        self.population, self.tournament, self.rate = population, tournament, rate

    def propose(self, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """`count` children of tournament winners; none where mutation finds nothing new."""
        archs, values = history.targets(last=self.population)

        def child() -> Arch:
            drawn = rng.integers(len(archs), size=self.tournament)
            return self.space.mutate(archs[drawn[np.argmax(values[drawn])]], rng, self.rate)

        return Proposal(distinct(child, count, history) if archs else [])
