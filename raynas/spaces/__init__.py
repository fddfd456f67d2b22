"""Search spaces by name."""

from collections.abc import Mapping
from typing import Any

from raynas.registry import make
from raynas.spaces.base import Cost, SearchSpace

SPACES: dict[str, Any] = {
    "nasbench101": "raynas.spaces.nasbench101:NASBench101Space",
    "nasbench201": "raynas.spaces.nasbench201:NASBench201Space",
    "darts": "raynas.spaces.darts:DARTSSpace",
}


def make_space(name: str, options: Mapping[str, Any] | None = None) -> SearchSpace:
    """The space registered as `name` (or `module:Class`), made with `options`.

    Raises:
        UnknownNameError: no such space, or it does not take one of the options.
    """
    space: SearchSpace = make(SPACES, name, options, "space")
    return space


__all__ = ["SPACES", "Cost", "SearchSpace", "make_space"]
