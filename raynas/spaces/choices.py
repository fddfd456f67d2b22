"""Kinds of choices, and the tree that named choices make. L: leaves of the tree, the choices between values.

Optional blocks and repeats are choices between values too (absent or present; how many), on which the choices within them depend. So
one mechanism, a leaf that exists only where leaves before it have certain values, serves conditions, optional blocks and repeats.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from numbers import Integral, Real
from typing import Any

from raynas.errors import ConfigError, OutOfSpaceError
from raynas.registry import unknown

Value = bool | int | float | str
Vector = Sequence[int]  # (L,) the index of each leaf's value, INACTIVE where the leaf does not exist

INACTIVE = -1
MOST_VALUES = 1000  # of one choice: encodings have a feature for each


@dataclass(frozen=True, init=False)
class Categorical:
    """One of some values without order: numbers, texts or booleans. A plain list of values means the same.

    Args:
        when: where the choice exists: by the name of a choice before it, its value or a list of values. All of them must hold.
    """

    values: tuple[Value, ...]
    when: Mapping[str, Any] | None

    def __init__(self, *values: Value, when: Mapping[str, Any] | None = None) -> None:
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "when", when)


class Ordered(Categorical):
    """One of some values in their order, of which the next one is a small change: Ordered(16, 24, 32)."""


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`, in steps; `when` as for Categorical."""

    low: int
    high: int
    step: int = 1
    when: Mapping[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Optional:
    """A block of choices that may be absent; `when` as for Categorical."""

    choices: Mapping[str, Any]
    when: Mapping[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Repeat:
    """From `low` to `high` blocks in a row, each with choices of its own; `when` as for Categorical."""

    low: int
    high: int
    choices: Mapping[str, Any]
    when: Mapping[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Leaf:
    """A choice between values."""

    name: str  # its way through the tree: stages.0.kernel
    values: tuple[Value, ...]
    ordered: bool
    needs: tuple[tuple[int, frozenset[int]], ...]  # leaves before it, and the indices of their values, with which alone it exists

    def exists(self, vector: Vector) -> bool:
        """Whether it does, given the leaves before it."""
        return all(vector[leaf] in allowed for leaf, allowed in self.needs)


@dataclass(frozen=True)
class Node:
    """A choice in the tree: a leaf, a group (no leaf, one block), an optional block or a repeat (one block or several)."""

    leaf: int | None
    blocks: tuple[Mapping[str, "Node"], ...] = ()
    repeated: bool = False


def text_of(value: Value) -> str:
    """A value as it stands in ids and pictures; different values have different texts."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.+-]*", value, re.ASCII) and value not in ("true", "false")
    return str(value) if plain else json.dumps(value)


class Tree:
    """The choices of a space.

    Raises:
        ConfigError: they are none; the message says which one, and why.
    """

    def __init__(self, choices: Mapping[str, Any]) -> None:
        self.leaves: list[Leaf] = []
        self.root = self._block(choices, "", (), {})
        if not self.leaves:
            raise ConfigError("a space of choices needs at least one choice, as in {'width': [16, 32]}")

    # -- how it is made

    def _block(self, choices: Any, within: str, needs: tuple[Any, ...], scope: Mapping[str, int]) -> dict[str, Node]:
        """`scope`: the leaves that conditions may name."""
        if not isinstance(choices, Mapping):
            raise ConfigError(f"the choices of {within.rstrip('.') or 'a space'} must be a mapping of names, not {choices!r}")
        nodes, seen = {}, dict(scope)
        for name, choice in choices.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise ConfigError(f"the name of a choice must be letters, digits and _, as in Python; not {name!r}")
            nodes[name] = node = self._node(choice, f"{within}{name}", needs, seen)
            if node.leaf is not None:
                seen[name] = node.leaf
            else:
                seen.pop(name, None)  # a group hides what has its name further out
        return nodes

    def _node(self, choice: Any, name: str, needs: tuple[Any, ...], scope: Mapping[str, int]) -> Node:
        if isinstance(choice, Mapping):
            return Node(None, (self._block(choice, f"{name}.", needs, scope),))
        choice = Categorical(*choice) if isinstance(choice, (list, tuple)) else choice
        if not isinstance(choice, (Categorical, Whole, Optional, Repeat)):
            allowed = "a list of values, Categorical, Ordered, Whole, Optional, Repeat, or a mapping of choices"
            raise ConfigError(f"the choice {name} must be {allowed}; not {choice!r}")
        needs = (*needs, *self._conditions(choice.when, name, scope))
        leaf, ordered = len(self.leaves), isinstance(choice, (Ordered, Whole, Repeat))
        self.leaves.append(Leaf(name, _values_of(choice, name), ordered, needs))
        if isinstance(choice, Optional):
            return Node(leaf, (self._block(choice.choices, f"{name}.", (*needs, (leaf, frozenset({1}))), scope),))
        if not isinstance(choice, Repeat):
            return Node(leaf)
        blocks = []
        for i in range(choice.high):
            enough = frozenset(range(max(0, i + 1 - choice.low), choice.high - choice.low + 1))
            count = ((leaf, enough),) if i >= choice.low else ()
            blocks.append(self._block(choice.choices, f"{name}.{i}.", (*needs, *count), scope))
        return Node(leaf, tuple(blocks), repeated=True)

    def _conditions(self, when: Any, name: str, scope: Mapping[str, int]) -> Iterator[tuple[int, frozenset[int]]]:
        if when is not None and not isinstance(when, Mapping):
            raise ConfigError(f"when of the choice {name} must be a mapping, as in when={{'other': value}}; not {when!r}")
        for other, allowed in (when or {}).items():
            if other not in scope:
                known = ", ".join(scope) or "none"
                raise ConfigError(f"when of the choice {name} names {other!r}, but must name a choice before it, of: {known}")
            leaf = self.leaves[scope[other]]
            values = allowed if isinstance(allowed, (list, tuple, set, frozenset)) else [allowed]
            places = [_place(value, leaf.values) for value in values]
            if None in places or not places:
                raise ConfigError(f"when of the choice {name} needs {other} = {allowed!r}, but its values are {_listed(leaf.values)}")
            yield scope[other], frozenset(place for place in places if place is not None)

    # -- descriptions, and vectors of indices

    def plain(self, vector: Vector) -> dict[str, Any]:
        """The choices as people write them: nested, a block that is absent None, what does not exist left out."""

        def block(nodes: Mapping[str, Node]) -> dict[str, Any]:
            return {name: value(node) for name, node in nodes.items() if node.leaf is None or vector[node.leaf] != INACTIVE}

        def value(node: Node) -> Any:
            chosen = None if node.leaf is None else self.leaves[node.leaf].values[vector[node.leaf]]
            if node.repeated:
                return [block(nodes) for nodes in node.blocks[: int(chosen or 0)]]
            if node.blocks:
                return None if chosen is False else block(node.blocks[0])
            return chosen

        return block(self.root)

    def read(self, choices: Any) -> tuple[int, ...]:
        """The inverse of `plain`.

        Raises:
            OutOfSpaceError: a choice is unknown, missing or does not exist here, or a value is not allowed; the message says which are.
        """
        vector = [INACTIVE] * len(self.leaves)

        def block(nodes: Mapping[str, Node], given: Any, within: str) -> None:
            if not isinstance(given, Mapping):
                raise OutOfSpaceError(f"{within.rstrip('.') or 'choices'} must be a mapping of choices, not {given!r}")
            for name in given:
                if name not in nodes:
                    raise OutOfSpaceError(str(unknown("choice", f"{within}{name}", [f"{within}{known}" for known in nodes])))
            for name, node in nodes.items():
                if node.leaf is None or self.leaves[node.leaf].exists(vector):
                    if name not in given:
                        raise OutOfSpaceError(f"the choice {within}{name} is missing; allowed: {self._allowed(node)}")
                    value(node, given[name], f"{within}{name}")
                elif name in given:
                    raise OutOfSpaceError(f"the choice {within}{name} is given, but exists only where {self._conditions_of(node.leaf)}")

        def value(node: Node, given: Any, name: str) -> None:
            if node.leaf is not None:
                chosen = given
                if node.repeated:
                    chosen = len(given) if isinstance(given, (list, tuple)) else None
                elif node.blocks:
                    chosen = given is not None
                place = _place(chosen, self.leaves[node.leaf].values)
                if place is None:
                    raise OutOfSpaceError(f"{name} cannot be {given!r}; allowed: {self._allowed(node)}")
                vector[node.leaf] = place
            blocks = given if node.repeated else [] if node.leaf is not None and given is None else [given]
            for i, (nodes, inner) in enumerate(zip(node.blocks, blocks, strict=False)):
                block(nodes, inner, f"{name}.{i}." if node.repeated else f"{name}.")

        block(self.root, choices, "")
        return tuple(vector)

    def _allowed(self, node: Node) -> str:
        values = () if node.leaf is None else self.leaves[node.leaf].values
        if node.repeated:
            return f"a list of {values[0]} to {values[-1]} blocks"
        return _listed(values) if not node.blocks else "a mapping of choices" + (", or null" if values else "")

    def _conditions_of(self, leaf: int) -> str:
        needs = [(self.leaves[other], allowed) for other, allowed in self.leaves[leaf].needs]
        return " and ".join(f"{other.name} is {' or '.join(text_of(other.values[i]) for i in sorted(allowed))}" for other, allowed in needs)

    def complete(self, vector: Vector, fill: Callable[[Leaf], int]) -> tuple[int, ...]:
        """A vector, of whose leaves some have changed: what does not exist any more is INACTIVE, what is new filled."""
        made = list(vector)
        for i, leaf in enumerate(self.leaves):
            made[i] = INACTIVE if not leaf.exists(made) else fill(leaf) if vector[i] == INACTIVE else vector[i]
        return tuple(made)

    def count(self, most: int) -> int | None:
        """How many vectors there are; None where it cannot be told without going through more than `most` combinations."""
        asked = {leaf: max(i for i, later in enumerate(self.leaves) if leaf in dict(later.needs)) for leaf in self._asked()}
        ways: dict[tuple[tuple[int, int], ...], int] = {(): 1}  # by the values of those leaves that later ones ask about
        for i, leaf in enumerate(self.leaves):
            after: dict[tuple[tuple[int, int], ...], int] = {}
            for known, number in ways.items():
                values = dict(known)
                exists = all(values[other] in allowed for other, allowed in leaf.needs)
                places = range(len(leaf.values)) if exists else [INACTIVE]
                kept = tuple((other, place) for other, place in known if asked[other] > i)
                for key, times in {(*kept, (i, place)): 1 for place in places}.items() if i in asked else [(kept, len(places))]:
                    after[key] = after.get(key, 0) + number * times
            if len(after) > most:
                return None
            ways = after
        return sum(ways.values())

    def _asked(self) -> set[int]:
        return {other for leaf in self.leaves for other, _ in leaf.needs}

    def vectors(self) -> Iterator[tuple[int, ...]]:
        """All of them, the last leaf changing fastest."""

        def extended(vector: list[int]) -> Iterator[tuple[int, ...]]:
            if len(vector) == len(self.leaves):
                yield tuple(vector)
                return
            leaf = self.leaves[len(vector)]
            for place in range(len(leaf.values)) if leaf.exists(vector) else [INACTIVE]:
                yield from extended([*vector, place])

        return extended([])


def _values_of(choice: Categorical | Whole | Optional | Repeat, name: str) -> tuple[Value, ...]:
    """The values of a choice; raises ConfigError where they are none."""
    if isinstance(choice, Optional):
        return (False, True)
    if isinstance(choice, (Whole, Repeat)):
        bounds = (choice.low, choice.high, choice.step if isinstance(choice, Whole) else 1)
        if not all(isinstance(number, Integral) and not isinstance(number, bool) for number in bounds):
            raise ConfigError(f"the bounds of the choice {name} must be whole numbers, not {bounds}")
        low, high, step = map(int, bounds)
        if low > high or step < 1 or (isinstance(choice, Repeat) and low < 0):
            raise ConfigError(f"the choice {name} needs low <= high, a step of at least 1, and no negative number of repeats; not {bounds}")
        given: Sequence[Any] = range(low, high + 1, step)
    else:
        given = choice.values
    if not 0 < len(given) <= MOST_VALUES:
        raise ConfigError(f"the choice {name} needs 1 to {MOST_VALUES:,} values, not {len(given):,}")
    values = tuple(_value(value, name) for value in given)
    for i, value in enumerate(values):
        if _place(value, values) != i:
            raise ConfigError(f"the choice {name} has the value {text_of(value)} twice")
    return values


def _value(value: Any, name: str) -> Value:
    """A value as JSON has it; 3.0 is 3."""
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and isfinite(value):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    raise ConfigError(f"values of the choice {name} must be finite numbers, texts or booleans, not {value!r}; as in [16, 32]")


def _place(value: Any, values: Sequence[Value]) -> int | None:
    """Where a value stands; numbers are equal as in JSON, and no boolean is a number."""
    return next((i for i, own in enumerate(values) if own == value and isinstance(own, bool) == isinstance(value, bool)), None)


def _listed(values: Sequence[Value]) -> str:
    shown = [text_of(value) for value in values]
    return ", ".join(shown if len(shown) <= 20 else [*shown[:10], "...", shown[-1]])
