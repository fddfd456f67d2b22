"""Bayesian optimisation with a Gaussian process on distances between architectures; scikit-learn carries the process."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raynas.model.predictors.distance_gp import DistanceProcess
from raynas.spaces import SearchSpace
from searchers.surrogate import Surrogate


@dataclass(frozen=True, kw_only=True)
class GPBayesOpt(Surrogate):
    """Bayesian optimisation with a Gaussian process on a distance between architectures, as BANANAS was compared with.

    The covariance falls exponentially with the distance, the acquisition function is the upper confidence bound of the reference code
    (mean + 0.5 std), one architecture is proposed at a time, and candidates are the five best observed ones with 1 to 19 edits (here
    in powers of two). Unlike there, amplitude, rate and noise are fitted by marginal likelihood (Rasmussen and Williams 2006, section
    5.4) instead of fixed, the edits have an effect (its code ignored their number on NAS-Bench-101), and a batch foresees itself.

    Args:
        kernel: `adjacency`, the kernel of the comparison; `path`; `edit`, the edit distance of graphs, or `otmann`, NASBOT's.
    """

    kernel: str = "adjacency"
    acquisition: str = "ucb"
    parents: int = 5
    rates: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    refit_every: int = 1

    foresees: ClassVar[bool] = True

    def model(self) -> DistanceProcess:
        """A Gaussian process on the distance that `kernel` names."""
        return DistanceProcess(self.kernel)

    def check(self, space: SearchSpace) -> None:
        """Fits a process to one architecture: a space that does not define the distance fails here, not in the run."""
        self.model().fit(space, [space.sample(np.random.default_rng(0))], np.zeros(1), 0)
