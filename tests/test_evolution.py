"""Regularized evolution: tournaments among the youngest."""

import numpy as np
from toy_space import ToySpace

from searchers import Engine, Evolution


def distance(first: str, second: str) -> int:
    return sum(a != b for a, b in zip(first, second, strict=True))


def test_the_parent_is_the_best_of_a_tournament() -> None:
    search = Engine(Evolution(population=5, tournament=100), ToySpace(6))
    for i, word in enumerate(["aaaaab", "bcbcbc", "cccccc", "bbbbbb", "ccbbcc", "cbcbcb"]):
        search.tell(ToySpace(6).make(word), 1.0 if i == 0 else 0.9 if word == "bbbbbb" else 0.1 * i)
    children = search.method.propose(ToySpace(6), search.history, np.random.default_rng(0), 8).archs
    # The best of all, "aaaaab", is the sixth-last and so too old; of the youngest five "bbbbbb" wins whenever it is drawn.
    assert [distance(child.id, "bbbbbb") for child in children] == [1] * 8
    assert len({child.id for child in children}) == 8


def test_a_tournament_of_one_selects_nothing() -> None:
    search = Engine(Evolution(population=2, tournament=1), ToySpace(6))
    for word, value in (("aaaaaa", 0.9), ("bbbbbb", 0.1), ("cccccc", 0.5)):
        search.tell(ToySpace(6).make(word), value)
    rng = np.random.default_rng(0)
    children = [search.method.propose(ToySpace(6), search.history, rng, 1).archs[0].id for _ in range(40)]
    parents = {parent for child in children for parent in ("aaaaaa", "bbbbbb", "cccccc") if distance(child, parent) == 1}
    assert parents == {"bbbbbb", "cccccc"}  # each of the population, whatever its value
