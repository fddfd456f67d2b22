"""Architectures that were not tried yet: the pool over which an acquisition function is maximised."""

from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np

from raynas.arch import Arch
from raynas.front import ranked
from raynas.history import History
from raynas.spaces.base import SearchSpace

_PATIENCE = 5  # draws per wanted architecture before the search for new ones gives up
_LEAST_DRAWS = 1000


def distinct(draw: Callable[[], Arch], count: int, known: Container[str]) -> list[Arch]:
    """Up to `count` architectures from `draw`, each once and none with an id in `known`; fewer where draws keep repeating."""
    found: dict[str, Arch] = {}
    for _ in range(max(_PATIENCE * count, _LEAST_DRAWS) if count else 0):
        arch = draw()
        if arch.id not in found and arch.id not in known:
            found[arch.id] = arch
            if len(found) == count:
                break
    return list(found.values())


@lru_cache(maxsize=2)
def everything(space: SearchSpace, most: int) -> list[Arch] | None:
    """All architectures of a space, listed once; None where it cannot be listed, or holds more than `most`. Do not change the list.

    The 423,624 cells of NAS-Bench-101 take most of a minute and 0.5 GB.
    """
    if space.size is not None and space.size > most:
        return None
    archs = list(islice(space.enumerate() or (), most + 1))
    return archs if 0 < len(archs) <= most else None


def random_archs(space: SearchSpace, known: Container[str], rng: np.random.Generator, count: int) -> list[Arch]:
    """`count` random architectures with ids not in `known`, distinct; fewer only where the space holds no more.

    A space that cannot be enumerated counts as exhausted when `count` x 5, and at least 1,000, draws in a row bring too few.
    """
    found = distinct(lambda: space.sample(rng), count, known)
    everything = space.enumerate() if len(found) < count else None
    if everything is not None:
        taken = {arch.id for arch in found}
        rest = [arch for arch in everything if arch.id not in taken and arch.id not in known]
        found += [rest[i] for i in rng.permutation(len(rest))[: count - len(found)]]
    return found


def mutations(
    space: SearchSpace,
    parents: Sequence[Arch],
    known: Container[str],
    rng: np.random.Generator,
    count: int,
    rates: Sequence[float] = (1.0, 2.0),
    lineage: dict[str, str] | None = None,
) -> list[Arch]:
    """Up to `count` distinct mutations of `parents`, best first, with ids not in `known`.

    Parents are drawn with weights that fall linearly from 1.6 for the first to 0.4 for the last, and mutated at a rate from `rates`.
    `lineage` is told the parent of each, by ids.
    """
    weights = np.linspace(1.6, 0.4, len(parents)) if len(parents) > 1 else np.ones(1)
    tries = max(_PATIENCE * count, _LEAST_DRAWS)
    chosen = iter(rng.choice(len(parents), size=tries, p=weights / weights.sum()).tolist())
    at = iter(rng.integers(len(rates), size=tries).tolist())

    def child() -> Arch:
        parent = parents[next(chosen)]
        made = space.mutate(parent, rng, rates[next(at)])
        if lineage is not None:
            lineage.setdefault(made.id, parent.id)
        return made

    return distinct(child, count, known)


def leading(history: History, count: int) -> list[Arch]:
    """The `count` best observed architectures, best first; of several objectives whole fronts that are at least so many."""
    known = history.known()
    single = history.objective.single
    best = np.argsort(-known.vectors[:, 0], kind="stable")[:count] if single else ranked(known.vectors, known.excess, count)
    return [known.archs[i] for i in best]


def candidates(
    space: SearchSpace,
    history: History,
    rng: np.random.Generator,
    size: int = 1000,
    parents: int = 10,
    rates: Sequence[float] = (1.0, 2.0),
    random_share: float = 0.0,
    lineage: dict[str, str] | None = None,
) -> list[Arch]:
    """At most `size` distinct new architectures: mutations of the `parents` best observed ones (see `leading`), and a random share.

    The random share also fills up what mutation cannot reach. `lineage` as for `mutations`.
    """
    wanted = size - round(size * random_share)
    best = leading(history, parents)
    pool = mutations(space, best, history, rng, wanted, rates, lineage) if best else []
    known = {*history.observed, *history.pending, *(arch.id for arch in pool)}
    return pool + distinct(lambda: space.sample(rng), size - len(pool), known)
