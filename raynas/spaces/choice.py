"""A search space in ten lines: named choices, conditions among them, and a function that builds the network.

L: leaves of the tree of choices (see `raynas.spaces.choices`), P: paths, A: variables of the adjacency encoding.
"""

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError
from raynas.registry import resolve
from raynas.spaces.base import Cost, Drawing, Edge, Graph, SearchSpace, json_object
from raynas.spaces.base import Node as Place
from raynas.spaces.choices import INACTIVE, Leaf, Node, Tree, Vector, text_of

LISTED = 100_000  # architectures up to which they are enumerated
_COUNTER = "trainables.learning.networks.counting:cost_of"  # needs torch, which a space does not load
_NEAR = 0.75  # of the changes of an ordered choice, the share that leads to the next value
_LINE = 24  # characters of a line in a picture


@dataclass(frozen=True)
class Builder:
    """Makes networks as `make_network` wants them, of a function that is called as (choices, classes, image_size, channels, **options)."""

    build: Callable[..., Any] | str

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function, whose further keywords are the options."""
        function: Callable[..., Any] = resolve({}, self.build, "build") if isinstance(self.build, str) else self.build
        return function

    def __call__(self, arch: Arch, classes: int, image_size: int, image_channels: int, **options: Any) -> Any:
        return self.__wrapped__(arch.to_config()["choices"], classes, image_size, image_channels, **options)


@dataclass
class ChoiceSpace(SearchSpace):
    """The space of all ways to make some choices. `Arch` has one field, `choices`, in the form in which `build` gets them.

    Choices are a mapping of names; each is a list of values or a `Categorical` (no order), `Ordered`, `Whole` (numbers), `Optional` or
    `Repeat` (blocks of choices), or a mapping of choices, a group. `build` gets plain Python: values, a dict for a group or an optional
    block (None where it is absent), a list of dicts for a repeat; a choice whose condition does not hold is left out.

    A space is defined at the top of a module of one's own, and named as `module:name`.

    Args:
        name: of the architectures and tables of the space.
        choices: of which every architecture is one way to make them.
        build: makes the network, a module of torch, of (choices, classes, image_size, channels); further keywords are options of the
            network. Or `module:function`, which is loaded on first use.
        classes, image_size, channels: of the network that `cost` counts.

    Raises:
        ConfigError: a choice is none, or `build` cannot be called so; the message says why.
    """

    name: str
    choices: Mapping[str, Any]
    build: Callable[..., Any] | str
    classes: int = 10
    image_size: int = 32
    channels: int = 3
    columns: ClassVar = ("choices",)
    _costs: dict[str, Cost] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ConfigError(f"the name of a space must be letters, digits, _, - and dots, not {self.name!r}")
        _check_build(self.name, self.build)
        counts = (self.classes, self.image_size, self.channels)
        if not all(type(count) is int and count > 0 for count in counts):
            raise ConfigError(f"classes, image_size and channels of the space {self.name!r} must be positive whole numbers, not {counts}")
        self._tree = Tree(self.choices)
        leaves = self._tree.leaves
        self._starts = np.cumsum([0, *(len(leaf.values) for leaf in leaves)]).tolist()  # (L + 1,) the first path of each leaf
        self.num_paths = self._starts[-1]
        self.size = self._tree.count(LISTED)
        self.network = Builder(self.build)
        self.adjacency_sizes = tuple(len(leaf.values) + bool(leaf.needs) for leaf in leaves)
        self.graph_operations = ("input", *(f"{leaf.name}={text_of(value)}" for leaf in leaves for value in leaf.values), "output")

    # -- its architectures

    def make(self, /, **choices: Any) -> Arch:
        """The architecture with these choices.

        Raises:
            OutOfSpaceError: as `from_config`.
        """
        return self.from_config({"choices": choices})

    def from_config(self, config: Mapping[str, Any]) -> Arch:
        if config.get("space", self.name) != self.name:
            raise OutOfSpaceError(f"an architecture of space {config['space']!r} does not belong to {self.name!r}")
        if "choices" not in config:
            raise OutOfSpaceError(
                f"an architecture of the space {self.name!r} needs the field 'choices', not {', '.join(config) or 'nothing'}"
            )
        return self._arch(self._tree.read(config["choices"]))

    def _arch(self, vector: Vector) -> Arch:
        """The id lists the values in the order of the choices: those of a group or block in brackets, `no` for a block that is absent."""

        def told(node: Node) -> str:
            value = None if node.leaf is None else self._tree.leaves[node.leaf].values[vector[node.leaf]]
            if not node.blocks:
                return text_of(value)  # type: ignore[arg-type]  # it has a leaf
            if value is False:
                return "no"
            blocks = [block(nodes) for nodes in (node.blocks[: int(value or 0)] if node.repeated else node.blocks)]
            return f"[{''.join(blocks)}]" if node.repeated else blocks[0]

        def block(nodes: Mapping[str, Node]) -> str:
            return f"({','.join(told(node) for node in nodes.values() if self._exists(node, vector))})"

        return Arch.make(self.name, block(self._tree.root)[1:-1], choices=self._tree.plain(vector))

    @staticmethod
    def _exists(node: Node, vector: Vector) -> bool:
        return node.leaf is None or vector[node.leaf] != INACTIVE

    def _vector(self, arch: Arch) -> tuple[int, ...]:
        return self._tree.read(arch["choices"])

    def sample(self, rng: np.random.Generator) -> Arch:
        """Every value of a choice that exists with the same probability."""
        return self._arch(self._tree.complete([INACTIVE] * len(self._tree.leaves), lambda leaf: int(rng.integers(len(leaf.values)))))

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        """One choice changes, and each other one with the probability that makes `rate` changes on average.

        An ordered choice takes the next value in three of four cases, else, as any other one, one of its others; what comes to exist by
        that is drawn at random. A block that goes is the last one.
        """
        vector = list(self._vector(arch))
        free = [i for i, leaf in enumerate(self._tree.leaves) if vector[i] != INACTIVE and len(leaf.values) > 1]
        if not free:
            return arch
        chosen = rng.random(len(free)) < (max(rate, 1.0) - 1.0) / max(1, len(free) - 1)
        chosen[rng.integers(len(free))] = True
        for i in np.array(free)[chosen].tolist():
            others = self._others(self._tree.leaves[i], vector[i], rng.random() < _NEAR)
            vector[i] = others[rng.integers(len(others))]
        return self._arch(self._tree.complete(vector, lambda leaf: int(rng.integers(len(leaf.values)))))

    def neighbors(self, arch: Arch) -> list[Arch]:
        """Those with another value of one choice, of an ordered one the next ones only; what comes to exist has its first value."""
        vector, found = self._vector(arch), []
        for i, leaf in enumerate(self._tree.leaves):
            for other in self._others(leaf, vector[i], near=True) if vector[i] != INACTIVE else ():
                found.append(self._arch(self._tree.complete([*vector[:i], other, *vector[i + 1 :]], lambda leaf: 0)))
        return found

    @staticmethod
    def _others(leaf: Leaf, place: int, near: bool) -> list[int]:
        """The places of other values; of an ordered choice, with `near`, of the next ones."""
        return [i for i in range(len(leaf.values)) if i != place and (abs(i - place) == 1 or not (near and leaf.ordered))]

    def enumerate(self) -> Iterator[Arch] | None:
        """All where there are at most 100,000, the last choice changing fastest; else None."""
        return map(self._arch, self._tree.vectors()) if self.size is not None and self.size <= LISTED else None

    def cost(self, arch: Arch) -> Cost:
        """Of the network that `build` makes for the classes and images of the space, counted on PyTorch's meta device, without weights.

        Raises:
            ConfigError: `build` fails, or what it makes is no such network.
        """
        if arch.id not in self._costs:
            count = resolve({}, _COUNTER, "counter")
            self._costs[arch.id] = count(self, arch, self.classes, self.image_size, self.channels)
        return self._costs[arch.id]

    # -- as numbers and as a graph

    def paths(self, arch: Arch) -> tuple[int, ...]:
        """One for each choice that exists, by its value: indices count the values of all choices in order."""
        return tuple(start + place for start, place in zip(self._starts, self._vector(arch), strict=False) if place != INACTIVE)

    def adjacency(self, arch: Arch) -> tuple[int, ...]:
        """(L,) the place of each value; of a choice with conditions, counted from 1, and 0 where it does not exist."""
        return tuple(place + bool(leaf.needs) for leaf, place in zip(self._tree.leaves, self._vector(arch), strict=True))

    def from_adjacency(self, variables: Sequence[int]) -> Arch:
        if any(value not in self.allowed(variables[:i]) for i, value in enumerate(variables)):
            raise OutOfSpaceError(f"these places of values are no way to make the choices of {self.name!r}: {tuple(variables)}")
        return self._arch([value - bool(leaf.needs) for leaf, value in zip(self._tree.leaves, variables, strict=True)])

    def allowed(self, before: Sequence[int]) -> Sequence[int]:
        """Places of values; of a choice with conditions only 0 where they do not hold."""
        leaf = self._tree.leaves[len(before)]
        if not leaf.needs:
            return range(len(leaf.values))
        exists = leaf.exists([value - bool(each.needs) for each, value in zip(self._tree.leaves, before, strict=False)])
        return range(1, len(leaf.values) + 1) if exists else (0,)

    def scalars(self, arch: Arch) -> tuple[float, ...]:
        """Of each ordered choice the place of its value, from 0 to 1; then one bit for each value of every choice. No network is built.

        The bits say what the paths say, which count less in the default encoding than suits choices.
        """
        places = [
            max(place, 0) / max(len(leaf.values) - 1, 1)
            for leaf, place in zip(self._tree.leaves, self._vector(arch), strict=True)
            if leaf.ordered
        ]
        bits = np.zeros(self.num_paths)
        bits[list(self.paths(arch))] = 1.0
        return (*places, *bits.tolist())

    def graph(self, arch: Arch) -> Graph:
        """A vertex for each choice that exists, its value the operation, between input and output: its paths are those of `paths`."""
        paths = self.paths(arch)
        adjacency = np.zeros((len(paths) + 2,) * 2, dtype=np.int64)
        adjacency[0, 1:-1] = adjacency[1:-1, -1] = 1
        operations: NDArray[np.int64] = np.array([0, *(1 + path for path in paths), 1 + self.num_paths], dtype=np.int64)
        return Graph(adjacency, operations)

    # -- in tables

    def from_columns(self, *texts: str) -> Arch:
        """The architecture of the JSON of its choices."""
        return self.from_config({"choices": json_object(texts[0], self.columns[0])})

    def to_columns(self, arch: Arch) -> tuple[str, ...]:
        return (json.dumps(arch.to_config()["choices"]),)

    # -- in pictures

    def draw(self, arch: Arch) -> list[Drawing]:
        """A chain: the choices in order, groups and blocks as one node each."""
        vector, labels = self._vector(arch), list[str]()
        for name, node in self._tree.root.items():
            if self._exists(node, vector):
                labels += self._labels(name, node, vector)
        nodes = (Place("input", "end"), *(Place(label, "block") for label in labels), Place("output", "end"))
        return [Drawing("", nodes, tuple(Edge(i, i + 1) for i in range(len(nodes) - 1)))]

    def _labels(self, name: str, node: Node, vector: Vector) -> Iterator[str]:
        """What a choice is, in words; of a repeat, one for each block."""
        value = None if node.leaf is None else self._tree.leaves[node.leaf].values[vector[node.leaf]]
        if isinstance(value, bool):
            if not (value and node.blocks):
                yield name if value else f"no {name}"
                return
        elif not node.blocks:
            yield f"{name} {text_of(value)}"  # type: ignore[arg-type]  # it has a leaf
            return
        elif node.repeated and not value:
            yield f"no {name}"
        for i, nodes in enumerate(node.blocks[: int(value or 0)] if node.repeated else node.blocks):
            existing = [(inner, each) for inner, each in nodes.items() if self._exists(each, vector)]
            words = [label for inner, each in existing for label in self._labels(inner, each, vector)]
            lines = textwrap.fill(", ".join(word.replace(" ", "\xa0") for word in words), _LINE).replace("\xa0", " ")
            yield f"{name}[{i}]:\n{lines}" if node.repeated else f"{name}:\n{lines}"


def _check_build(name: str, build: Any) -> None:
    """Raises ConfigError unless it can be called with the four arguments, as far as that can be seen without loading it."""
    arguments = "(choices, classes, image_size, channels)"
    if isinstance(build, str) and ":" in build:
        return
    if not callable(build):
        raise ConfigError(f"build of the space {name!r} must be a function of {arguments} or 'module:function', not {build!r}")
    try:
        inspect.signature(build).bind(*range(4))
    except TypeError as error:
        raise ConfigError(f"build of the space {name!r} must be a function of {arguments}: {error}") from error
    except ValueError:  # a callable that does not tell its arguments
        return
