"""Numbers that cost no training, as inputs of a model. n: architectures, p: proxies, r: random architectures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from raynas.arch import Arch
from raynas.model.candidates import random_archs
from raynas.model.encodings import Array
from raynas.model.ranks import Floats
from raynas.model.targets import rank_gauss
from raynas.spaces.base import SearchSpace


@dataclass(frozen=True)
class Proxies:
    """An encoder that tells what an architecture's proxies are among those of random ones, as normal quantiles of their ranks.

    What is not a number counts as the median; what lies beyond the extremes, as these. An architecture is measured once.

    Args:
        measure: of an architecture, the same p numbers whenever it is asked.
        among: so many random ones, r.
        seed: of these.
    """

    measure: Callable[[Arch], Sequence[float]]
    among: int = 100
    seed: int = 0
    _known: dict[str, Floats] = field(default_factory=dict, repr=False, compare=False)  # id -> (p,)
    _scales: list[tuple[Floats, Floats]] = field(default_factory=list, repr=False, compare=False)  # (p,) values and quantiles, (r,) each

    def __call__(self, space: SearchSpace, archs: Sequence[Arch], paths: int | None = None) -> Array:
        """(n, p) the quantiles; the first call draws the random architectures from `space`."""
        if not self._scales:
            drawn = random_archs(space, (), np.random.default_rng(self.seed), self.among)
            self._scales.extend(map(_scale, self._measured(drawn).T))
        columns = zip(self._measured(archs).T, self._scales, strict=True)
        told = [np.where(np.isnan(values), 0.0, np.interp(values, *scale)) for values, scale in columns]
        return np.stack(told, axis=1).astype(np.float32)

    def _measured(self, archs: Sequence[Arch]) -> Floats:
        """(n, p)"""
        for arch in archs:
            if arch.id not in self._known:
                self._known[arch.id] = np.array(self.measure(arch), dtype=np.float64)
        return np.stack([self._known[arch.id] for arch in archs])


def _scale(values: Floats) -> tuple[Floats, Floats]:
    """Values (r,), ascending, and their normal quantiles; of those alone that are finite."""
    finite = values[np.isfinite(values)]
    return (np.sort(finite), np.sort(rank_gauss(finite).values)) if len(finite) else (np.zeros(1), np.zeros(1))
