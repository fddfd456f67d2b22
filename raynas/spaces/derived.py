"""Part of a space as a space: all is as the whole has it, but for what the part says otherwise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

import numpy as np

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError, RaynasError
from raynas.spaces.base import Cost, SearchSpace

_TRIES = 1000  # architectures of which one must be within the limits,
_DRAWS = 50  # the first of them independent of each other


class Derived(SearchSpace):
    """Base of parts of `space`, whose name is theirs. Two of them are equal only where they are the same object."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def __getattr__(self, name: str) -> Any:
        if name == "space":  # not made yet
            raise AttributeError(name)
        return getattr(self.space, name)

    def sample(self, rng: np.random.Generator) -> Arch:
        return self.space.sample(rng)

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        return self.space.mutate(arch, rng, rate)

    def neighbors(self, arch: Arch) -> list[Arch]:
        return self.space.neighbors(arch)

    def from_config(self, config: Mapping[str, Any]) -> Arch:
        return self.space.from_config(config)

    def from_adjacency(self, variables: Sequence[int]) -> Arch:
        arch = self.space.from_adjacency(variables)
        if not self.contains(arch):
            raise OutOfSpaceError(f"the architecture {arch.id} is not in this part of the space {self.name}")
        return arch

    def paths(self, arch: Arch) -> tuple[int, ...]:
        return self.space.paths(arch)

    def cost(self, arch: Arch) -> Cost:
        return self.space.cost(arch)


def _delegated(name: str) -> property:
    return property(lambda derived: getattr(derived.space, name))


# What SearchSpace has a default for is not reached by `__getattr__`.
for _name in [name for name in vars(SearchSpace) if not name.startswith("_") and name not in vars(Derived) and name != "size"]:
    setattr(Derived, _name, _delegated(_name))


class Limited(Derived):
    """The architectures of `space` whose cost keeps limits, as far as some tries find them; else those that exceed them least.

    Args:
        excess: how far a cost, by the names of `Cost`, exceeds the limits; 0 where it keeps them.
    """

    def __init__(self, space: SearchSpace, excess: Callable[[Mapping[str, float]], float]) -> None:
        super().__init__(space)
        self._excess = excess

    def excess(self, arch: Arch) -> float:
        """How far an architecture exceeds the limits; infinitely where it has no cost, as its network cannot be made."""
        try:
            return self._excess(self.space.cost(arch)._asdict())
        except RaynasError:
            return inf

    def sample(self, rng: np.random.Generator) -> Arch:
        return self._first(lambda: self.space.sample(rng), rng)

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        return self._first(lambda: self.space.mutate(arch, rng, rate), rng)

    def neighbors(self, arch: Arch) -> list[Arch]:
        return [other for other in self.space.neighbors(arch) if not self.excess(other)]

    def contains(self, arch: Arch) -> bool:
        return self.space.contains(arch) and not self.excess(arch)

    def enumerate(self) -> Iterator[Arch] | None:
        everything = self.space.enumerate()
        return None if everything is None else (arch for arch in everything if not self.excess(arch))

    def _first(self, draw: Callable[[], Arch], rng: np.random.Generator) -> Arch:
        """The first draw within the limits; where some tries bring none, mutations lead the nearest one there."""
        best = draw()
        least = self.excess(best)
        for attempt in range(_TRIES):
            if not least:
                break
            other = draw() if attempt < _DRAWS else self.space.mutate(best, rng)
            if (excess := self.excess(other)) <= least:
                best, least = other, excess
        return best
