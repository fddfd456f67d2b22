"""What a search space is. n: architectures, P: paths of the space, A: variables of the adjacency encoding, V: vertices of a graph."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError, RaynasError


class Cost(NamedTuple):
    """What a network costs, computed from its description alone.

    `flops` counts multiply-accumulates the way thop and the benchmark tables do: one per multiplication of a convolution or
    linear layer, two per element that passes a batch normalisation; pooling, additions and activations are free.
    """

    parameters: int  # trainable ones
    flops: int  # for one input image


class Graph(NamedTuple):
    """An architecture as a directed acyclic graph with an operation at each vertex."""

    adjacency: NDArray[np.int64]  # (V, V) upper triangular, 1: an edge from the row's vertex to the column's
    operations: NDArray[np.int64]  # (V,) indices in the `graph_operations` of the space


class Node(NamedTuple):
    """A place in a picture of a cell."""

    label: str  # of a block, one line or several
    kind: Literal["end", "operation", "sum", "block"] = "operation"  # an end: an input or output; a block: no colour, its label says all


class Edge(NamedTuple):
    """An arrow in a picture of a cell, between two of its nodes by their indices."""

    source: int
    target: int
    operation: str = ""  # what is done on the way; empty: nothing


class Drawing(NamedTuple):
    """A cell as its publication draws it, with operations at its nodes or on its edges; `raynas.drawing` makes a picture of it."""

    title: str  # empty where the architecture has no other cell
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Published:
    """An architecture and where it comes from."""

    config: Mapping[str, Any]  # for `SearchSpace.from_config`
    source: str


def known_costs(space: "SearchSpace", arch: Arch) -> dict[str, float]:
    """The cost of an architecture by the names of `Cost`; empty where there is none, as where its network cannot be made."""
    try:
        return dict(space.cost(arch)._asdict())
    except RaynasError:
        return {}


def json_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object in `text`; raises OutOfSpaceError, which names `what` it should be, where it holds none."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise OutOfSpaceError(f"the {what} is not JSON: {error}: {text[:60]!r}") from error
    if not isinstance(value, dict):
        raise OutOfSpaceError(f"the {what} must be a JSON object, not {text}")
    return value


class SearchSpace(ABC):
    """A set of architectures. A space of one's own subclasses this, names itself and implements the six abstract methods.

    Everything else that others ask a space has a default that will do, or says what is missing. Spaces hold no state but their
    settings: randomness comes from the generator that the caller passes. A space may be a dataclass.
    """

    name: str  # of the architectures and tables of the space
    num_paths: int  # P
    size: int | None = None  # number of architectures (distinct ids) where known

    def __new__(cls, *args: Any, **options: Any) -> Self:
        # A dataclass takes the hash away, or makes it that of settings which may be lists. Spaces that are equal are of one class.
        if cls.__hash__ is not SearchSpace.__hash__:
            cls.__hash__ = SearchSpace.__hash__  # type: ignore[method-assign]
        return super().__new__(cls)

    def __hash__(self) -> int:
        return hash(type(self))

    # -- its architectures

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

    def contains(self, arch: Arch) -> bool:
        """Whether `arch` belongs to the space and its id is right."""
        try:
            return arch.space == self.name and self.from_config(arch.to_config()) == arch
        except OutOfSpaceError:
            return False

    def enumerate(self) -> Iterator[Arch] | None:
        """All architectures in a fixed order, or None where there are too many to list."""
        return None

    # -- as numbers and as a graph

    def path_lengths(self) -> NDArray[np.int64]:
        """(P,) number of operations on each path, by which paths are truncated; by default all are equally long."""
        return np.zeros(self.num_paths, dtype=np.int64)

    truncation: int | None = None  # how many paths the truncated encoding keeps, None: all
    adjacency_sizes: tuple[int, ...] = ()  # (A,) number of values of each variable of `adjacency`

    def adjacency(self, arch: Arch) -> tuple[int, ...]:
        """(A,) `arch` as variables; the i-th takes the values 0 to adjacency_sizes[i] - 1. Optional."""
        raise OutOfSpaceError(f"space {self.name!r} defines no adjacency encoding; use a path encoding")

    def from_adjacency(self, variables: Sequence[int]) -> Arch:
        """The architecture that (A,) variables describe, not only those that `adjacency` chooses for it. Optional.

        Raises:
            OutOfSpaceError: they describe none.
        """
        raise OutOfSpaceError(f"space {self.name!r} does not say which architecture the variables of an adjacency encoding describe")

    def allowed(self, before: Sequence[int]) -> Sequence[int]:
        """Values that the next variable of `adjacency` may take after those `before` it; what follows may still describe none."""
        return range(self.adjacency_sizes[len(before)])

    # (A,) the variables as a tree of decisions takes them, the most telling first, without asking `allowed`; (): as they come
    decision_order: tuple[int, ...] = ()

    def operation_pairs(self, arch: Arch) -> NDArray[np.int64]:
        """(k, l) how often each of k operations (or inputs) feeds directly each of l operations (or outputs). Optional."""
        raise OutOfSpaceError(f"space {self.name!r} does not count pairs of operations; use a path encoding")

    def scalars(self, arch: Arch) -> tuple[float, ...]:
        """Numbers of order 1 that describe size and shape of `arch`, always equally many; they must not depend on any label."""
        cost = self.cost(arch)
        return (float(np.log10(1 + cost.parameters)) - 6.0, float(np.log10(1 + cost.flops)) - 8.0)

    graph_operations: tuple[str, ...] = ()  # what a vertex of `graph` may be, inputs and outputs included

    def graph(self, arch: Arch) -> Graph:
        """`arch` as a graph whose paths from inputs to outputs are those of `paths`. Optional."""
        raise OutOfSpaceError(f"space {self.name!r} does not say how its architectures are graphs; use a predictor that reads an encoding")

    def draw(self, arch: Arch) -> list[Drawing]:
        """`arch` as pictures of its cells; by default its graph, whose vertices without predecessors or successors are the ends."""
        adjacency, operations = self.graph(arch)
        inner = (adjacency.sum(axis=0) > 0) & (adjacency.sum(axis=1) > 0)
        labels = [self.graph_operations[operation] for operation in operations]
        nodes = tuple(Node(label, "operation" if inside else "end") for label, inside in zip(labels, inner, strict=True))
        return [Drawing("", nodes, tuple(Edge(int(v), int(w)) for v, w in np.argwhere(adjacency)))]

    # -- as text

    fields: ClassVar[tuple[str, ...]] = ()  # by which JSON without the field "space" is known to be of this space
    text_start: ClassVar[str | None] = None  # with what a text begins that `from_text` reads besides JSON
    published: ClassVar[Mapping[str, Published]] = {}  # cells of publications by name
    published_options: ClassVar[Mapping[str, Any]] = {}  # options with which the space admits all that was published of it

    def from_text(self, text: str) -> Arch:
        """The architecture that a text of a command line describes: by default JSON, the form of `Arch.to_config`.

        Raises:
            OutOfSpaceError: it describes none of this space; the message says why.
        """
        return self.from_config(json_object(text, "architecture"))

    # -- in tables

    columns: ClassVar[tuple[str, ...]] = ("arch",)  # of a file that describes architectures, all texts
    table_epochs: ClassVar[int | None] = None  # budget of the benchmarks of this space; None: no usual one

    def from_columns(self, *texts: str) -> Arch:
        """The architecture that a row of a table describes, from its texts in `columns`: by default JSON, the form of `Arch.to_config`.

        Raises:
            OutOfSpaceError: they describe none of this space; the message says why.
        """
        return self.from_config(json_object(texts[0], self.columns[0]))

    def to_columns(self, arch: Arch) -> tuple[str, ...]:
        """The inverse of `from_columns`."""
        return (json.dumps(arch.to_config()),)

    # -- how it is trained

    network: str | Callable[..., Any] | None = None
    """`module:function`, called as (arch, classes, image_size, image_channels, **options); see `trainables.learning.networks`. Or what
    is called so itself, where the space is an object that finds it in every process; its options are those of what it wraps."""
    recipes: ClassVar[Mapping[str, str | Mapping[str, Any]]] = {}
    """How networks are trained, unless told otherwise: by purpose, "search" or "train", what `make_recipe` takes; without it, "quick"."""

    def recipe(self, purpose: Literal["search", "train"], dataset: str | None = None) -> str | Mapping[str, Any]:
        """How networks are trained on `dataset`, unless told otherwise; digits, on which no publication trains, by "quick"."""
        return "quick" if dataset == "digits" else self.recipes.get(purpose, "quick")
