"""An architecture: an immutable value with an isomorphism-invariant id and a plain-JSON form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raynas.errors import OutOfSpaceError


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _freeze(v) for key, v in value.items()}
    return tuple(_freeze(v) for v in value) if isinstance(value, (list, tuple)) else value


def _thaw(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thaw(v) for key, v in value.items()}
    return [_thaw(v) for v in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture of one search space.

    Two architectures are equal when space and id are: the id names the network up to isomorphism, so two descriptions of
    the same network compare equal. Search spaces make architectures; `spec` holds the description as the space defines it.
    """

    space: str
    id: str
    spec: tuple[tuple[str, Any], ...] = field(compare=False)  # (name, value) pairs; values are JSON, lists as tuples

    @classmethod
    def make(cls, space: str, id: str, **spec: Any) -> "Arch":
        """An architecture with the given description, which is copied; lists in it become tuples."""
        return cls(space, id, tuple((name, _freeze(value)) for name, value in spec.items()))

    def __getitem__(self, name: str) -> Any:
        for key, value in self.spec:
            if key == name:
                return value
        raise KeyError(name)

    def to_config(self) -> dict[str, Any]:
        """Plain JSON: `space`, `id` and the fields of `spec`, tuples as lists."""
        return {"space": self.space, "id": self.id} | {name: _thaw(value) for name, value in self.spec}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Arch":
        """The inverse of `to_config`. It trusts the id; `SearchSpace.from_config` checks everything and needs no id.

        Raises:
            OutOfSpaceError: `space` or `id` is missing.
        """
        missing = {"space", "id"} - config.keys()
        if missing:
            raise OutOfSpaceError(f"an architecture needs the fields 'space' and 'id'; missing: {', '.join(sorted(missing))}")
        return cls.make(**config)
