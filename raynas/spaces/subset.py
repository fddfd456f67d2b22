"""Some architectures of a space as a space: what a benchmark table can answer. N: members, P: paths of the space."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.spaces.base import SearchSpace
from raynas.spaces.derived import Derived

_TRIES = 3  # mutations of the space's own before one of the nearest members is taken
_NEAREST = 100  # members among which that one is drawn, the nearest most often
_REMEMBERED = 1 << 12  # architectures whose nearest members are kept


class Subset(Derived):
    """The architectures `archs` of `space`, each once; all but what is said here is as `space` has it, its name too.

    Its architectures are drawn uniformly. Two subsets are equal only where they are the same object.

    Raises:
        OutOfSpaceError: there are no architectures.
    """

    def __init__(self, space: SearchSpace, archs: Sequence[Arch]) -> None:
        super().__init__(space)
        self._archs = list({arch.id: arch for arch in archs}.values())
        self._rows = {arch.id: row for row, arch in enumerate(self._archs)}
        if not self._archs:
            raise OutOfSpaceError(f"a subset of the space {space.name} needs at least one architecture")
        self.size = len(self._archs)
        self._index: _Index | None = None
        self._nearest: Callable[[Arch], NDArray[np.int64]] = lru_cache(maxsize=_REMEMBERED)(self._find_nearest)

    def __reduce__(self) -> tuple[Any, ...]:
        return Subset, (self.space, self._archs)  # what is remembered is found again

    def sample(self, rng: np.random.Generator) -> Arch:
        return self._archs[int(rng.integers(len(self._archs)))]

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        """A mutation of the space that is a member; where some tries bring none, one of the members nearest to `arch`.

        The nearest have the largest share of their paths in common with it, and the nearer they are the likelier they are drawn. So
        mutation works where members are few and far between, too.
        """
        for _ in range(_TRIES):
            child = self.space.mutate(arch, rng, rate)
            if child.id in self._rows and child.id != arch.id:
                return child
        nearest = self._nearest(arch)
        if not len(nearest):
            return self._archs[0]
        rank = int((len(nearest) + 1) ** rng.random())  # 1 to the number of the nearest, k with a probability of about 1 / k
        return self._archs[int(nearest[min(rank, len(nearest)) - 1])]

    def neighbors(self, arch: Arch) -> list[Arch]:
        return [other for other in self.space.neighbors(arch) if other.id in self._rows]

    def from_config(self, config: Mapping[str, Any]) -> Arch:
        arch = self.space.from_config(config)
        if arch.id not in self._rows:
            raise OutOfSpaceError(f"the architecture {arch.id} is not among the {len(self._archs):,} of the table")
        return arch

    def contains(self, arch: Arch) -> bool:
        return arch.id in self._rows and self.space.contains(arch)

    def enumerate(self) -> Iterator[Arch]:
        return iter(self._archs)

    def _find_nearest(self, arch: Arch) -> NDArray[np.int64]:
        """(up to _NEAREST,) rows of the members that are nearest to `arch`, the nearest first, `arch` left out."""
        if self._index is None:
            self._index = _Index([self.space.paths(member) for member in self._archs], self.space.num_paths)
        similarity = self._index.similarity(self.space.paths(arch))
        if arch.id in self._rows:
            similarity[self._rows[arch.id]] = -1.0
        nearest = np.argsort(-similarity, kind="stable")[:_NEAREST]
        return nearest[similarity[nearest] >= 0]


class _Index:
    """Of each path the members that have it, and how often: inverted, as a member has few of all paths."""

    def __init__(self, paths: Sequence[tuple[int, ...]], num_paths: int) -> None:
        """`paths`: (N,) of each member, repeated as often as they occur."""
        self.lengths = np.array([len(p) for p in paths])  # (N,)
        flat = np.fromiter((path for p in paths for path in p), dtype=np.int64, count=int(self.lengths.sum()))
        owners = np.repeat(np.arange(len(paths)), self.lengths)
        pairs, self.counts = np.unique(flat * len(paths) + owners, return_counts=True)
        self.owners = pairs % len(paths)
        self.starts = np.searchsorted(pairs // len(paths), np.arange(num_paths + 1))  # where the members with each path begin

    def similarity(self, paths: tuple[int, ...]) -> NDArray[np.float64]:
        """(N,) the paths that each member shares with these, of all that either has (Jaccard index of multisets), from 0 to 1."""
        shared = np.zeros(len(self.lengths))
        for path, count in zip(*np.unique(paths, return_counts=True), strict=True):
            own = slice(self.starts[path], self.starts[path + 1])
            shared[self.owners[own]] += np.minimum(self.counts[own], count)
        return np.asarray(shared / np.maximum(self.lengths + len(paths) - shared, 1))
