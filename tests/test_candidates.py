"""The pool over which an acquisition function is maximised."""

from collections.abc import Callable
from itertools import cycle

import numpy as np
import pytest
from searcher_contract import ToySpace

from raynas.arch import Arch
from raynas.history import History, Observation
from raynas.model.candidates import candidates, distinct, mutations, random_archs
from raynas.spaces import SearchSpace, make_space

SPACE = make_space("nasbench201")


class CountingSpace(ToySpace):
    """Notes what is drawn from it."""

    def __init__(self, length: int, listed: bool = True) -> None:
        super().__init__(length, listed)
        self.sampled = 0
        self.mutated: list[tuple[str, float]] = []

    def sample(self, rng: np.random.Generator) -> Arch:
        self.sampled += 1
        return super().sample(rng)

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        self.mutated.append((arch.id, rate))
        return super().mutate(arch, rng, rate)


def observed(space: SearchSpace, count: int, value: Callable[[int], float] = float) -> History:
    """A history of random architectures; the i-th has the value `value(i)`."""
    history, rng = History(), np.random.default_rng(7)
    for i, arch in enumerate(random_archs(space, (), rng, count)):
        history.add(Observation(arch, "finished", ((1.0, value(i)),)))
    return history


def ids(archs: list[Arch]) -> list[str]:
    return [arch.id for arch in archs]


def test_distinct_takes_each_once_and_none_that_is_known() -> None:
    words = [ToySpace(1).make(letter) for letter in "aabac"]
    draws = iter(cycle(words))
    assert ids(distinct(lambda: next(draws), 2, {"b"})) == ["a", "c"]
    assert ids(distinct(lambda: next(draws), 5, ())) == ["a", "b", "c"]  # it gives up where draws only repeat
    assert distinct(lambda: next(draws), 0, ()) == []


@pytest.mark.parametrize("name", ["nasbench101", "nasbench201", "darts"])
def test_a_pool_is_new_distinct_and_of_the_space(name: str) -> None:
    space = make_space(name)
    history = observed(space, 20)
    for arch in random_archs(space, history, np.random.default_rng(1), 10):
        history.start(arch)
    before = history.to_json()
    pool = candidates(space, history, np.random.default_rng(0), size=150, random_share=0.2)
    assert len(pool) == len(set(ids(pool))) == 150
    assert not set(ids(pool)) & {*history.observed, *history.pending}
    assert all(space.contains(arch) for arch in pool)
    assert history.to_json() == before
    assert pool == candidates(space, history, np.random.default_rng(0), size=150, random_share=0.2)
    assert pool != candidates(space, history, np.random.default_rng(1), size=150, random_share=0.2)


def test_without_observations_the_pool_is_random() -> None:
    space = CountingSpace(6)
    assert len(candidates(space, History(), np.random.default_rng(0), size=50)) == 50
    assert space.mutated == []


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_random_share(share: float) -> None:
    space = CountingSpace(6)
    history = observed(space, 20)
    space.sampled = 0
    pool = candidates(space, history, np.random.default_rng(0), size=40, random_share=share)
    assert len(pool) == 40
    assert (space.sampled >= 40 * share) if share else (space.sampled == 0)
    best = ids(history.targets()[0][10:])
    near = [any(sum(a != b for a, b in zip(id, parent, strict=True)) == 1 for parent in best) for id in ids(pool)]
    assert all(near[: round(40 * (1 - share))])  # mutations come first, each one edit from one of the ten best
    assert share < 1 or space.mutated == []


def test_the_best_are_mutated_most() -> None:
    space = CountingSpace(8)
    history = observed(space, 30, lambda i: float(i))
    candidates(space, history, np.random.default_rng(0), size=2000, parents=5, rates=(1.0, 3.0))
    parents, counts = np.unique([parent for parent, _ in space.mutated], return_counts=True)
    share = dict(zip(parents.tolist(), (counts / counts.sum()).tolist(), strict=True))
    best = ids(history.targets()[0])[::-1][:5]
    assert set(share) == set(best)
    # Weights fall linearly from 1.6 to 0.4: 1.6, 1.3, 1.0, 0.7 and 0.4 of 5.
    assert [share[id] for id in best] == pytest.approx([0.32, 0.26, 0.20, 0.14, 0.08], abs=0.03)
    rates = [rate for _, rate in space.mutated]
    assert set(rates) == {1.0, 3.0}
    assert rates.count(1.0) / len(rates) == pytest.approx(0.5, abs=0.05)


def test_mutations_of_given_parents() -> None:
    space = CountingSpace(6)
    parents = [space.make("aaaaaa"), space.make("bbbbbb")]
    found = ids(mutations(space, parents, {"aaaaab"}, np.random.default_rng(0), 100))
    near = {neighbor.id for parent in parents for neighbor in space.neighbors(parent)}
    assert sorted(found) == sorted(near - {"aaaaab"})  # all there are, each once
    assert {rate for _, rate in space.mutated} == {1.0, 2.0}
    assert len(mutations(space, parents[:1], (), np.random.default_rng(0), 5)) == 5


def test_what_failed_is_no_parent_and_what_was_stopped_counts() -> None:
    space = CountingSpace(6)
    history = History()
    for word, status, value in [("aaaaaa", "failed", 0.9), ("bbbbbb", "finished", 0.5), ("cccccc", "stopped", 0.6)]:
        history.add(Observation(space.make(word), status, ((1.0, value),)))  # type: ignore[arg-type]
    pool = candidates(space, history, np.random.default_rng(0), size=10, parents=1)
    assert len(pool) == 10
    assert {parent for parent, _ in space.mutated} == {"cccccc"}


def test_a_small_space_gives_what_it_has() -> None:
    space = ToySpace(2)
    history = observed(space, 4)
    pool = candidates(space, history, np.random.default_rng(0), size=100)
    assert sorted([*ids(pool), *history.observed]) == sorted(ids(list(space.enumerate() or ())))
    full = observed(space, 9)
    assert candidates(space, full, np.random.default_rng(0), size=100) == []
    assert random_archs(space, full, np.random.default_rng(0), 3) == []


def test_the_last_ones_of_a_listed_space_are_found() -> None:
    class Stubborn(ToySpace):
        """Draws one word only."""

        def sample(self, rng: np.random.Generator) -> Arch:
            return self.make("aa")

    listed = random_archs(Stubborn(2), {"bb"}, np.random.default_rng(0), 9)
    assert listed[0].id == "aa"
    assert sorted(ids(listed)) == ["aa", "ab", "ac", "ba", "bc", "ca", "cb", "cc"]
    assert ids(random_archs(Stubborn(2, listed=False), {"bb"}, np.random.default_rng(0), 9)) == ["aa"]
    orders = {tuple(ids(random_archs(Stubborn(2), {"bb"}, np.random.default_rng(seed), 9))) for seed in range(5)}
    assert len(orders) == 5  # in random order
