"""Search spaces by name, and architectures by what describes them."""

from raynas.spaces.base import Cost, Drawing, Edge, Graph, Node, Published, SearchSpace, known_costs
from raynas.spaces.choice import ChoiceSpace
from raynas.spaces.choices import Categorical, Optional, Ordered, Repeat, Whole
from raynas.spaces.names import SPACES, describe, known_spaces, make_space, permissive, published, space_name
from raynas.spaces.subset import Subset

__all__ = [
    "SPACES",
    "Categorical",
    "ChoiceSpace",
    "Cost",
    "Drawing",
    "Edge",
    "Graph",
    "Node",
    "Optional",
    "Ordered",
    "Published",
    "Repeat",
    "SearchSpace",
    "Subset",
    "Whole",
    "describe",
    "known_costs",
    "known_spaces",
    "make_space",
    "permissive",
    "published",
    "space_name",
]
