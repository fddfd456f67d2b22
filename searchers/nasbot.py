"""NASBOT: Bayesian optimisation and optimal transport (Kandasamy et al., NeurIPS 2018, arXiv 1802.07191).

scipy solves the transport (raynas.model.distances), scikit-learn carries the Gaussian process.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.model.candidates import distinct, random_archs
from raynas.model.predictors.base import FittedPredictor
from raynas.spaces import SearchSpace
from searchers.gp import GPBayesOpt

_STEPS = (0.5, 0.25, 0.125, 0.075, 0.05)  # how likely a mutation takes 1, 2, ... edits
_FITNESS = 2.0  # how strongly better candidates are preferred
_LEAST, _MOST, _GROWTH = 50, 500, 25  # evaluations of the acquisition function: 25 times the root of the trials, within these


@dataclass(frozen=True, kw_only=True)
class Nasbot(GPBayesOpt):
    """A Gaussian process on the OTMANN distance of `space.graph`, whose expected improvement an evolution maximises.

    The kernel is the sum of two exponentials, of the distances with four weights of their structural part and of the same over the masses
    (section 3); its parameters are fitted by marginal likelihood. Evolution starts from what was observed and as many random
    architectures as the search began with; in rounds of `mutations` children, parents are drawn with probabilities that grow
    exponentially with their acquisition (section 4; numbers of the authors' code). A vertex of a graph is one unit wide here, where the
    paper knows the units of every layer; structural costs count all layers, not convolutions and pooling apart.

    Args:
        mutations: children in a round of the evolution.
    """

    kernel: str = "otmann"
    acquisition: str = "ei"
    mutations: int = 50
    refit_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mutations < 1:
            raise ConfigError(f"mutations must be at least 1, not {self.mutations}")

    def begin(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int, lineage: dict[str, str]) -> list[Arch]:
        """Random architectures."""
        return random_archs(space, history, rng, max(self.num_initial, count))

    def extend(
        self,
        space: SearchSpace,
        history: History,
        rng: np.random.Generator,
        count: int,
        pool: list[Arch],
        fitted: FittedPredictor,
        best: float,
        lineage: dict[str, str],
    ) -> list[Arch]:
        """Adds the children of an evolution whose fitness is the acquisition function."""
        observed = history.targets()[0]
        parents = [*observed, *pool]
        known = {*history.observed, *history.pending, *(arch.id for arch in pool)}
        scores = np.concatenate([self.score(fitted.predict(some), best, rng) for some in (observed, pool)])
        evaluations = min(max(_GROWTH * sqrt(len(observed)), _LEAST, 2 * count), max(_MOST, 2 * count))
        for _ in range(ceil(evaluations / self.mutations)):
            weights = np.exp(_FITNESS * (scores - scores.max()) / max(scores.std(), np.finfo(float).tiny))
            new = self._children(space, parents, weights / weights.sum(), known, rng, lineage)
            if not new:
                break
            known.update(arch.id for arch in new)
            parents += new
            scores = np.concatenate([scores, self.score(fitted.predict(new), best, rng)])
        return parents[len(observed) :]

    def _children(
        self,
        space: SearchSpace,
        parents: Sequence[Arch],
        shares: NDArray[np.float64],
        known: Container[str],
        rng: np.random.Generator,
        lineage: dict[str, str],
    ) -> list[Arch]:
        """The children of a round, none of them known, of parents that are drawn with probabilities `shares`."""

        def child() -> Arch:
            parent = made = parents[rng.choice(len(parents), p=shares)]
            for _ in range(1 + rng.choice(len(_STEPS), p=_STEPS)):
                made = space.mutate(made, rng)
            lineage.setdefault(made.id, parent.id)
            return made

        return distinct(child, self.mutations, known)
