"""Methods that search by training one network which holds all cells: DARTS, PC-DARTS, and random search with weight sharing.

What finds the architectures is a trial of its own (`trainables.oneshot`), run before any other; what it found comes first in the queue
(`Engine.enqueue`), and nothing is proposed after that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raynas.arch import Arch
from raynas.history import History
from raynas.spaces import SearchSpace
from searchers.method import Method, Proposal


@dataclass(frozen=True, kw_only=True)
class OneShot(Method):
    """A search by supernets.

    Args:
        trial: `module:Class` of the trial that trains a supernet and reads a cell off it.
        options: its settings, the fields of its `Options`.
    """

    trial: str
    options: Mapping[str, Any] = field(default_factory=dict)
    num_initial: int = 0  # nothing random: the supernets have found what there is to evaluate

    def __post_init__(self) -> None:
        pass  # the trial checks its options

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """Nothing more."""
        return Proposal(())

    def stopgap(self, space: SearchSpace, history: History, rng: np.random.Generator) -> Arch | None:
        """None, likewise."""
        return None
