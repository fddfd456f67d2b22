"""Local search: where it goes, when it starts anew, and what many workers do."""

import numpy as np
from searcher_contract import ToySpace

from raynas.history import History
from raynas.spaces import Subset
from searchers import Engine, LocalSearch


def value(word: str) -> float:
    return (word.count("a") + word.count("b") / 8) / 8


def climbed(method: LocalSearch, trials: int, space: ToySpace | None = None) -> list[tuple[str, str, str | None]]:
    """Word, by what it was proposed and the parent of each trial, one after the other."""
    search, told = Engine(method, space or ToySpace(5), seed=3), []
    for _ in range(trials):
        suggestion = search.ask()
        assert suggestion is not None
        told.append((suggestion.arch.id, suggestion.origin.by, suggestion.origin.parent))
        search.tell(suggestion.arch, value(suggestion.arch.id))
    return told


def test_the_first_better_neighbour_is_the_next_centre_until_none_is_better() -> None:
    told = climbed(LocalSearch(num_initial=4), 60)
    best = max((word for word, _, _ in told[:4]), key=value)
    end = next(i for i, (_, by, _) in enumerate(told) if by == "random")
    for word, _, parent in told[4:end]:
        assert parent == best
        assert sum(a != b for a, b in zip(word, best, strict=True)) == 1
        best = max(best, word, key=value)
    assert best == "aaaaa"
    assert {word for word, _, _ in told[:end]} >= {arch.id for arch in ToySpace(5).neighbors(ToySpace(5).make(best))}
    assert [by for _, by, _ in told[end : end + 5]] == ["random"] * 4 + ["mutation"]  # a new climb, from as many random ones
    assert told[end + 4][2] == max((word for word, _, _ in told[end : end + 4]), key=value)


def test_a_full_neighbourhood_is_evaluated_before_the_best_of_it_is_the_centre() -> None:
    told = climbed(LocalSearch(num_initial=1, full_neighborhood=True), 21)
    start = told[0][0]
    assert [parent for _, _, parent in told[1:11]] == [start] * 10
    assert told[11][2] == max((word for word, _, _ in told[:11]), key=value)


def test_without_restart_it_goes_on_around_the_next_best() -> None:
    assert {by for _, by, _ in climbed(LocalSearch(num_initial=2, restart=False), 200)[2:]} == {"mutation"}


def test_free_workers_get_neighbours_of_the_next_best_while_the_centre_is_decided() -> None:
    space = ToySpace(3)
    search = Engine(LocalSearch(num_initial=2), space, points_to_evaluate=[space.make("aaa"), space.make("ccc")])
    for _ in range(2):
        first = search.ask()
        assert first is not None
        search.tell(first.arch, value(first.arch.id))
    asked = [search.ask() for _ in range(8)]
    assert [each.origin.parent for each in asked if each] == ["aaa"] * 6 + ["ccc"] * 2
    for each in asked[:6]:
        assert each is not None
        search.tell(each.arch, error="lost")  # what failed is evaluated, and no centre
    after = search.ask()
    assert after is not None
    assert after.origin.by == "random"


def test_members_of_a_table_without_neighbours_are_drawn() -> None:
    space = ToySpace(4)
    few = Subset(space, [space.make(word) for word in ("aaaa", "bbbb", "cccc", "abca")])
    search = Engine(LocalSearch(num_initial=1), few)
    for _ in range(4):
        suggestion = search.ask()
        assert suggestion is not None
        search.tell(suggestion.arch, value(suggestion.arch.id))
    assert search.ask() is None
    assert len(LocalSearch().propose(few, History(), np.random.default_rng(0), 3).archs) == 3
