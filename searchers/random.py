"""Random search: every suggestion is a new random architecture."""

import numpy as np

from raynas.history import History
from raynas.model.candidates import random_archs
from searchers.base import ArchSearcher, Proposal


class RandomSearch(ArchSearcher):
    """Random search without replacement; the space's sampler decides the distribution."""

    def propose(self, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """`count` random architectures."""
        return Proposal(random_archs(self.space, history, rng, count))
