"""Random search: every suggestion is a new random architecture."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raynas.history import History
from raynas.model.candidates import random_archs
from raynas.spaces import SearchSpace
from searchers.method import Method, Origin, Proposal


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Random search without replacement; the space's sampler decides the distribution."""

    several: ClassVar[bool] = True

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """`count` random architectures."""
        drawn = random_archs(space, history, rng, count)
        return Proposal(drawn, origins=[Origin("random")] * len(drawn))
