"""What a search space is. n: architectures, P: paths of the space, A: variables of the adjacency encoding."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError


class Cost(NamedTuple):
    """What a network costs, computed from its description alone.

    `flops` counts multiply-accumulates the way thop and the benchmark tables do: one per multiplication of a convolution or
    linear layer, two per element that passes a batch normalisation; pooling, additions and activations are free.
    """

    parameters: int  # trainable ones
    flops: int  # for one input image


class SearchSpace(ABC):
    """A set of architectures. A space of one's own subclasses this and implements the abstract methods.

    Spaces hold no state but their settings: randomness comes from the generator that the caller passes.
    """

    name: ClassVar[str]
    num_paths: ClassVar[int]  # P
    size: int | None = None  # number of architectures (distinct ids) where known

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Arch:
        """One random architecture."""

    @abstractmethod
    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        """A random variation of `arch`; `rate` is the expected number of edits of each kind. May return an equal architecture."""

    @abstractmethod
    def neighbors(self, arch: Arch) -> list[Arch]:
        """All architectures one edit away: each once, without `arch`, in a fixed order."""

    @abstractmethod
    def from_config(self, config: Mapping[str, Any]) -> Arch:
        """The architecture that `config` (the form of `Arch.to_config`; `id` is recomputed) describes.

        Raises:
            OutOfSpaceError: it is not an architecture of this space; the message says why.
        """

    @abstractmethod
    def paths(self, arch: Arch) -> tuple[int, ...]:
        """Indices in [0, P) of all paths of `arch`, ascending, repeated as often as the path occurs."""

    @abstractmethod
    def cost(self, arch: Arch) -> Cost:
        """Trainable parameters and multiply-accumulates of the network that the space's publication builds from `arch`."""

    def path_lengths(self) -> NDArray[np.int64]:
        """(P,) number of operations on each path, by which paths are truncated; by default all are equally long."""
        return np.zeros(self.num_paths, dtype=np.int64)

    truncation: int | None = None  # how many paths the truncated encoding keeps, None: all
    adjacency_sizes: tuple[int, ...] = ()  # (A,) number of values of each variable of `adjacency`

    def adjacency(self, arch: Arch) -> tuple[int, ...]:
        """(A,) `arch` as variables; the i-th takes the values 0 to adjacency_sizes[i] - 1. Optional."""
        raise OutOfSpaceError(f"space {self.name!r} defines no adjacency encoding; use a path encoding")

    def operation_pairs(self, arch: Arch) -> NDArray[np.int64]:
        """(k, l) how often each of k operations (or inputs) feeds directly each of l operations (or outputs). Optional."""
        raise OutOfSpaceError(f"space {self.name!r} does not count pairs of operations; use a path encoding")

    def scalars(self, arch: Arch) -> tuple[float, ...]:
        """Numbers of order 1 that describe size and shape of `arch`, always equally many; they must not depend on any label."""
        cost = self.cost(arch)
        return (float(np.log10(1 + cost.parameters)) - 6.0, float(np.log10(1 + cost.flops)) - 8.0)

    def contains(self, arch: Arch) -> bool:
        """Whether `arch` belongs to the space and its id is right."""
        try:
            return arch.space == self.name and self.from_config(arch.to_config()) == arch
        except OutOfSpaceError:
            return False

    def enumerate(self) -> Iterator[Arch] | None:
        """All architectures in a fixed order, or None where there are too many to list."""
        return None
