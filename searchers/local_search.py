"""Local search (White, Nolen, Savani 2020, "Local Search is State of the Art for NAS Benchmarks", arXiv 2005.02960)."""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from raynas.arch import Arch
from raynas.history import History
from raynas.model.candidates import random_archs
from raynas.spaces import SearchSpace
from searchers.method import Method, Origin, Proposal


@dataclass(frozen=True, kw_only=True)
class LocalSearch(Method):
    """Local search: neighbours of the best architecture of a climb until none is better, then a new climb from random ones.

    Algorithm 1 of the paper with the settings of its code: a climb starts from the best of `num_initial` random architectures, its
    neighbours (all of `SearchSpace.neighbors`) come in random order, and the first that is better is the next centre. What earlier climbs
    evaluated is passed over. A centre is a local optimum once none of its neighbours is pending; until then, workers that are free
    get neighbours of the next best of the climb.

    Args:
        full_neighborhood: move when all neighbours are evaluated, to the best of them (the text of algorithm 1).
        restart: begin anew at a local optimum, as published; without, go on around the next best of the climb.
    """

    full_neighborhood: bool = False
    restart: bool = True

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """Up to `count` neighbours of one architecture, or random ones where a climb begins. Memory: ids of the climb, and the centre."""
        memory = history.memory or {"climb": [*history.observed, *history.pending], "center": None}
        climb = {arch_id: None for arch_id in memory["climb"] if arch_id in history}
        step = self._step(space, history, climb, memory["center"]) if len(climb) >= self.num_initial else None
        if step is not None:
            center, parent, fresh = step
            archs = [fresh[i] for i in rng.permutation(len(fresh))[:count]]
            origins = [Origin("mutation", parent.id)] * len(archs)
        else:
            if len(climb) >= self.num_initial and not climb.keys() <= history.pending.keys():
                climb = {}  # it has ended
            center, archs = None, random_archs(space, history, rng, min(count, max(1, self.num_initial - len(climb))))
            origins = [Origin("random")] * len(archs)
        return Proposal(archs, origins=origins, memory={"climb": [*climb, *(arch.id for arch in archs)], "center": center})

    def _step(self, space: SearchSpace, history: History, climb: Container[str], center: str | None) -> tuple[str, Arch, list[Arch]] | None:
        """The id of the centre, and an architecture with neighbours that nobody knows; None at a local optimum."""
        archs, values = history.targets()
        members = [archs[i] for i in np.argsort(-values, kind="stable") if archs[i].id in climb]
        order = sorted(members, key=lambda arch: arch.id != center) if self.full_neighborhood else members
        current: str | None = None
        for arch in order:
            near = space.neighbors(arch)
            fresh = [other for other in near if other.id not in history]
            busy = any(other.id in history.pending for other in near)
            if fresh or busy:
                current = current or arch.id
            if fresh:
                return current or arch.id, arch, fresh
            if self.restart and not busy and arch == members[0]:
                return None
        return None
