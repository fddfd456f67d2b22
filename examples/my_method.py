"""A search method of your own: `--searcher my_method:Climb`."""

from dataclasses import dataclass

from searchers import Method, Proposal


@dataclass(frozen=True, kw_only=True)
class Climb(Method):
    """Proposes neighbours of the best; random ones come where it proposes too few."""

    several = True  # it takes several objectives

    def propose(self, space, history, rng, count):
        best = history.best()
        new = [arch for arch in space.neighbors(best.arch) if arch.id not in history] if best else []
        return Proposal(new[:count])
