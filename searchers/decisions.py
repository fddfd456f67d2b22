"""An architecture as decisions, one after the other: the variables of its space's adjacency encoding. A: variables, n: architectures."""

from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError
from raynas.model.candidates import everything
from raynas.spaces import SearchSpace

Variables = tuple[int, ...]  # (A,)

_LISTED = 100_000  # architectures up to which those of a space are listed


def check_decisions(space: SearchSpace) -> None:
    """Raises ConfigError unless `space` has an adjacency encoding and can read it back, and its order, if any, is one of the variables."""
    mend = "give it adjacency_sizes, adjacency and from_adjacency, or use another searcher"
    if not space.adjacency_sizes:
        raise ConfigError(f"space {space.name!r} has no adjacency encoding, whose variables this searcher decides on; {mend}")
    if space.decision_order and sorted(space.decision_order) != list(range(len(space.adjacency_sizes))):
        raise ConfigError(
            f"decision_order of the space {space.name!r} must hold each of 0 to {len(space.adjacency_sizes) - 1} once, or nothing, "
            f"not {space.decision_order}"
        )
    arch = space.sample(np.random.default_rng(0))
    try:
        again = space.from_adjacency(space.adjacency(arch))
    except OutOfSpaceError as error:
        raise ConfigError(f"this searcher needs architectures of {space.name!r} from variables, but {error}; {mend}") from error
    if again != arch:
        raise ConfigError(f"from_adjacency of the space {space.name!r} is no inverse of its adjacency: {arch.id} becomes {again.id}")


def decide(space: SearchSpace, choose: Callable[[Sequence[int], Sequence[int]], int]) -> Variables:
    """Variables; `choose` is given those so far and the values that the next may take, of which it returns one."""
    values: list[int] = []
    while len(values) < len(space.adjacency_sizes):
        values.append(choose(values, space.allowed(values)))
    return tuple(values)


def described(space: SearchSpace, variables: Sequence[int]) -> Arch | None:
    """The architecture that variables describe; None where there is none in the space."""
    try:
        return space.from_adjacency(variables)
    except OutOfSpaceError:
        return None


def first_new(space: SearchSpace, draw: Callable[[], Variables], known: Container[str], tries: int = 1000) -> tuple[Arch, Variables] | None:
    """The first of so many draws that is an architecture with an id not in `known`."""
    for _ in range(tries):
        variables = draw()
        arch = described(space, variables)
        if arch is not None and arch.id not in known:
            return arch, variables
    return None


class Listed(NamedTuple):
    """Architectures and their variables."""

    archs: list[Arch]  # (n,)
    variables: NDArray[np.int64]  # (n, A)

    def most(self, score: NDArray[np.float64], known: Container[str]) -> tuple[Arch, Variables] | None:
        """The one of the highest score (n,) with an id not in `known`."""
        for i in np.argsort(-score, kind="stable").tolist():
            if self.archs[i].id not in known:
                return self.archs[i], tuple(self.variables[i].tolist())
        return None


@lru_cache(maxsize=4)
def listed(space: SearchSpace) -> Listed | None:
    """All architectures of a space; None where they are more than 100,000. For spaces of which few variables describe one that is new."""
    archs = everything(space, _LISTED)
    return None if archs is None else Listed(archs, np.array([space.adjacency(arch) for arch in archs], dtype=np.int64))
