"""Search spaces by name, and architectures by what describes them."""

from raynas.spaces.base import Cost, Drawing, Edge, Graph, Node, Published, SearchSpace
from raynas.spaces.names import SPACES, describe, known_spaces, make_space, permissive, published, space_name
from raynas.spaces.subset import Subset

__all__ = [
    "SPACES",
    "Cost",
    "Drawing",
    "Edge",
    "Graph",
    "Node",
    "Published",
    "SearchSpace",
    "Subset",
    "describe",
    "known_spaces",
    "make_space",
    "permissive",
    "published",
    "space_name",
]
