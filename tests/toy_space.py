"""A small search space for tests, whose values can be read off."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.spaces import Cost, Graph, SearchSpace


class ToySpace(SearchSpace):
    """Words of `length` letters; the value of one is the share of its letters that are `a`."""

    name = "toy"
    num_paths = 12
    graph_operations = ("input", *(f"letter {i}={letter}" for i in range(4) for letter in "abc"), "output")

    def __init__(self, length: int = 2, listed: bool = True) -> None:
        self.length, self.listed = length, listed
        self.size = 3**length
        self.adjacency_sizes = (3,) * length

    def make(self, word: str) -> Arch:
        return Arch.make("toy", word, word=word)

    def from_config(self, config: Mapping[str, Any]) -> Arch:
        word = config.get("word", "")
        if len(word) != self.length or set(word) - set("abc"):
            raise OutOfSpaceError(f"{word!r} is no word of {self.length} letters a, b and c")
        return self.make(word)

    def sample(self, rng: np.random.Generator) -> Arch:
        return self.make("".join(rng.choice(list("abc"), size=self.length)))

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        """One other letter."""
        return self.neighbors(arch)[rng.integers(2 * self.length)]

    def neighbors(self, arch: Arch) -> list[Arch]:
        word = arch["word"]
        return [self.make(word[:i] + letter + word[i + 1 :]) for i in range(self.length) for letter in "abc" if letter != word[i]]

    def paths(self, arch: Arch) -> tuple[int, ...]:
        return tuple(3 * (i % 4) + "abc".index(letter) for i, letter in enumerate(arch["word"]))

    def adjacency(self, arch: Arch) -> tuple[int, ...]:
        return tuple(map("abc".index, arch["word"]))

    def from_adjacency(self, variables: Sequence[int]) -> Arch:
        return self.make("".join("abc"[i] for i in variables))

    def graph(self, arch: Arch) -> Graph:
        """Each letter lies between the input and the output."""
        operations = np.array([0, *(1 + path for path in self.paths(arch)), 13])
        adjacency = np.zeros((len(operations), len(operations)), dtype=np.int64)
        adjacency[0, 1:-1] = adjacency[1:-1, -1] = 1
        return Graph(adjacency, operations)

    def cost(self, arch: Arch) -> Cost:
        return Cost(1000, 100_000)

    def enumerate(self) -> Iterator[Arch] | None:
        return (self.make("".join(letters)) for letters in product("abc", repeat=self.length)) if self.listed else None


class PlainSpace(ToySpace):
    """The same without what a space need not have: graph and adjacency."""

    graph, adjacency = SearchSpace.graph, SearchSpace.adjacency
