"""The initial design: what is evaluated before a method has enough to go by."""

import numpy as np

from raynas.arch import Arch
from raynas.history import History
from raynas.model.candidates import random_archs
from raynas.model.priors import promising
from raynas.spaces import SearchSpace


def starting(history: History, wanted: int) -> bool:
    """Whether the initial design goes on: too few architectures known, or too few of them evaluated to learn from."""
    return len(history) < wanted or 2 * len(history.observed) < wanted


def initial(space: SearchSpace, history: History, rng: np.random.Generator) -> tuple[Arch | None, str]:
    """The next of the initial design and how it came about: where there are priors, by turns one of their best and a random one."""
    arch = promising(history.priors, space, history) if len(history) % 2 == 0 else None
    return (at_random(space, history, rng), "initial") if arch is None else (arch, "prior")


def at_random(space: SearchSpace, history: History, rng: np.random.Generator) -> Arch | None:
    """An architecture that is not known; None where the space holds no more."""
    return next(iter(random_archs(space, history, rng, 1)), None)
