"""What another search has found, as a prior for this one. n: architectures."""

from collections.abc import Container, Iterable, Sequence
from itertools import chain, zip_longest

import numpy as np

from raynas.arch import Arch
from raynas.history import History, Observation, Prior
from raynas.model.candidates import leading
from raynas.spaces.base import SearchSpace


def prior_of(observations: Iterable[Observation], history: History) -> Prior:
    """What a search of the same objective as `history` has observed on other data; failed trials are left out.

    Raises:
        ConfigError: an observation has not a value for each objective.
    """
    there = history.anew()
    for observation in observations:
        observation.check(history.objective)
        there.add(observation)
    archs, values = there.targets()
    value_of = dict(zip((arch.id for arch in archs), values.tolist(), strict=True))
    best = leading(there, len(archs))
    return Prior(tuple(best), np.array([value_of[arch.id] for arch in best]))


def promising(priors: Sequence[Prior], space: SearchSpace, known: Container[str]) -> Arch | None:
    """The first architecture of `space` with an id not in `known` among the best of each prior, then the second best, and so on."""
    ranked = chain.from_iterable(zip_longest(*(prior.archs for prior in priors)))
    return next((arch for arch in ranked if arch is not None and arch.id not in known and space.contains(arch)), None)
