"""BOHB (Falkner, Klein, Hutter, ICML 2018, arXiv 1807.01774). n: architectures, A: variables, c: candidates.

Tune's own TuneBOHB speaks to HpBandSter, whose last release is of 2018; its model for categorical variables is a screenful of numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.spaces import SearchSpace
from searchers.decisions import Variables, check_decisions, decide, first_new, listed
from searchers.method import Method, Origin, Proposal

_FLOOR = 1e-32  # of densities, as in the code of its authors


@dataclass(frozen=True, kw_only=True)
class BOHB(Method):
    """BOHB: kernel densities of the good and the other results at the largest budget that has enough; goes with `--scheduler hyperband`.

    Section 4 and algorithm 2 of the paper, with the defaults of its code (HpBandSter): a multivariate density each, Aitchison-Aitken
    kernels, as all variables of the adjacency encoding are categorical, bandwidths by the normal reference rule; of `num_samples` draws
    from around the good ones the one with the highest ratio is proposed. A choice that does not exist is a value of its own. Reports of
    running and stopped trials count at their budgets (there is no random design: random are what the model lacks, and a share
    of all); what is pending is only kept from coming again, as in the paper. `bandwidth_factor` of HpBandSter is for continuous variables.

    Args:
        random_fraction: proposals that are random whatever is known; 1/3.
        num_samples: draws that are compared; 64.
        top_percent: results that are good; 15, at least `min_points`.
        min_points: of either density; None: one more than there are variables.
        min_bandwidth: 0.001 as in HpBandSter; the NAS-Bench-101 comparison has 0.3.
    """

    num_initial: int = 1
    random_fraction: float = 1 / 3
    num_samples: int = 64
    top_percent: int = 15
    min_points: int | None = None
    min_bandwidth: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.random_fraction <= 1 or not 0 < self.top_percent < 100 or not 0 < self.min_bandwidth <= 1:
            raise ConfigError("random_fraction must be in [0, 1], top_percent between 0 and 100, and min_bandwidth in (0, 1]")
        if self.num_samples < 1 or (self.min_points is not None and self.min_points < 1):
            raise ConfigError(f"num_samples and min_points must be at least 1, not {self.num_samples} and {self.min_points}")

    def check(self, space: SearchSpace) -> None:
        """As `check_decisions`."""
        check_decisions(space)

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """`count` architectures, each from the model or at random."""
        model = self._model(space, history)
        found: dict[str, Arch] = {}
        origins = []
        for _ in range(count):
            known = {*history.observed, *history.pending, *found}
            guided = None if model is None or rng.random() < self.random_fraction else self._best(space, model, known, rng)
            arch = guided or self.stopgap(space, history, rng)
            if arch is None:
                break
            if arch.id not in found:
                found[arch.id] = arch
                origins.append(Origin("random" if guided is None else "model"))
        return Proposal(list(found.values()), origins=origins)

    def _model(self, space: SearchSpace, history: History) -> "Densities | None":
        """Of the largest budget with enough results; None where no budget has."""
        least = self.min_points or len(space.adjacency_sizes) + 1
        results: dict[float, dict[str, tuple[float, Arch]]] = {}
        for row in history.rows():
            if row.status != "failed":
                results.setdefault(row.budget, {})[row.arch.id] = row.value, row.arch
        for budget in sorted(results, reverse=True):
            ranked = sorted(results[budget].values(), key=lambda result: -result[0])
            good = max(least, self.top_percent * len(ranked) // 100)
            if len(ranked) >= good + least:
                points = np.array([space.adjacency(arch) for _, arch in ranked], dtype=np.int64)
                sizes = np.array(space.adjacency_sizes)
                return Densities(*(Density.of(part, sizes, self.min_bandwidth) for part in (points[:good], points[good:])))
        return None

    def _best(self, space: SearchSpace, model: "Densities", known: set[str], rng: np.random.Generator) -> Arch | None:
        """Of so many draws from around the good ones, which are new, the one with the highest ratio of densities."""
        drawn: dict[str, tuple[Arch, Variables]] = {}
        for _ in range(self.num_samples):
            new = first_new(space, lambda: model.good.draw(space, rng), known, 4)
            if new is not None:
                drawn[new[0].id] = new
        if drawn:
            ratios = model.ratio(np.array([variables for _, variables in drawn.values()], dtype=np.int64))
            return list(drawn.values())[int(ratios.argmax())][0]
        rest = listed(space)
        best = None if rest is None else rest.most(model.ratio(rest.variables), known)
        return None if best is None else best[0]


class Density(NamedTuple):
    """A mixture of products of Aitchison-Aitken kernels, one about each point."""

    points: NDArray[np.int64]  # (n, A)
    sizes: NDArray[np.int64]  # (A,) values of each variable
    bandwidths: NDArray[np.float64]  # (A,) probability of another value

    @classmethod
    def of(cls, points: NDArray[np.int64], sizes: NDArray[np.int64], least: float) -> "Density":
        """With bandwidths by the normal reference rule, 1.06 s n^(-1 / (4 + A)), where they are not below `least` or beyond uniform."""
        rule = 1.06 * points.std(axis=0) * len(points) ** (-1 / (4 + points.shape[1]))
        return cls(points, sizes, np.minimum(np.maximum(rule, least), 1 - 1 / sizes))

    def at(self, variables: NDArray[np.int64]) -> NDArray[np.float64]:
        """(c,) of (c, A): the mean over the points of the product of 1 - h where they agree and h / (values - 1) elsewhere."""
        same, other = np.log1p(-self.bandwidths), np.log(np.maximum(self.bandwidths, _FLOOR) / np.maximum(self.sizes - 1, 1))
        agree = variables[:, None] == self.points  # (c, n, A)
        density: NDArray[np.float64] = np.exp(np.where(agree, same, other).sum(axis=2)).mean(axis=1)
        return density

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> Variables:
        """A point of which each variable takes another value, one that it may, with the probability of its bandwidth."""
        point, kept = self.points[rng.integers(len(self.points))], rng.random(len(self.sizes)) >= self.bandwidths

        def choose(before: Sequence[int], allowed: Sequence[int]) -> int:
            value = int(point[len(before)])
            return value if kept[len(before)] and value in allowed else allowed[int(rng.integers(len(allowed)))]

        return decide(space, choose)


class Densities(NamedTuple):
    """Of the good results and of the others."""

    good: Density
    bad: Density

    def ratio(self, variables: NDArray[np.int64]) -> NDArray[np.float64]:
        """(c,) how much likelier (c, A) are among the good ones."""
        ratio: NDArray[np.float64] = np.maximum(self.good.at(variables), _FLOOR) / np.maximum(self.bad.at(variables), _FLOOR)
        return ratio
