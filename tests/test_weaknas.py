"""WeakNAS: what it ranks, what it draws, and spaces that cannot be listed."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from toy_space import PlainSpace, ToySpace

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError, UnknownNameError
from raynas.history import History, Observation
from raynas.model.candidates import everything
from raynas.spaces import Subset, make_space
from searchers import Engine, WeakNAS, make_method

SPACE = ToySpace(5)  # 243 words


def knowing(words: Iterable[str]) -> History:
    """The history of a search that evaluated these words; the value of one is the share of its letters that are `a`."""
    history = History()
    for word in words:
        history.add(Observation(ToySpace(len(word)).make(word), "finished", ((1.0, word.count("a") / len(word)),)))
    return history


def some(count: int, seed: int = 0) -> History:
    rng = np.random.default_rng(seed)
    return knowing({SPACE.sample(rng).id: None for _ in range(count)})


def proposed(method: WeakNAS, history: History, count: int = 10, seed: int = 0, space: ToySpace = SPACE) -> list[str]:
    return [arch.id for arch in method.propose(space, history, np.random.default_rng(seed), count).archs]


def ranked(method: WeakNAS, history: History, seed: int = 0) -> list[str]:
    """All words, those first of which the model that `proposed` fits expects most."""
    archs = list(SPACE.enumerate() or ())
    expected = method.learn(SPACE, history, np.random.default_rng(seed)).fitted.predict(archs).mean
    return [archs[i].id for i in np.argsort(-expected, kind="stable")]


def test_what_it_proposes_is_drawn_from_the_predicted_top_of_the_whole_space() -> None:
    method, history = WeakNAS(top=40), some(25)
    places = []
    for seed in range(8):
        order = ranked(method, history, seed)
        words = proposed(method, history, 10, seed)
        assert len(set(words)) == 10
        assert not set(words) & set(history.observed)
        places += [order.index(word) for word in words]
    assert max(places) < 40
    assert np.histogram(places, bins=4, range=(0, 40))[0].min() >= 8  # of 80, with less chance in a quarter of which more is known


def test_known_ones_count_among_the_top_and_the_next_best_follow_where_none_is_left() -> None:
    method, history = WeakNAS(top=6, predictor="gp"), some(25)
    for arch_id in ranked(method, history)[:4]:
        if arch_id not in history:
            history.start(SPACE.make(arch_id))  # pending ones are known
    top, others = ranked(method, history)[:6], [word for word in ranked(method, history)[6:] if word not in history]
    words = proposed(method, history, 10)
    assert set(words[:2]) == set(top[4:]) - set(history.observed)
    assert words[2:] == others[:8]


def test_an_optimum_far_from_all_that_is_known_is_ranked_too() -> None:
    """Of six letters all best known words have two that are `a`, so no mutation of them has more than three."""
    rng = np.random.default_rng(0)
    drawn = (ToySpace(6).sample(rng).id for _ in range(200))
    history = knowing(list(dict.fromkeys(word for word in drawn if word.count("a") <= 2))[:60])
    assert "aaaaaa" in proposed(WeakNAS(top=5), history, 5, space=ToySpace(6))


@pytest.mark.parametrize("space", [ToySpace(6, listed=False), ToySpace(6)], ids=["cannot be listed", "is too large"])
def test_a_space_that_is_not_listed_is_sampled(space: ToySpace) -> None:
    method, seen = WeakNAS(top=20, sample=100, whole=728), set[str]()
    history = knowing(["aabbcc", "abcabc", "bbbccc", "cababb", "ccccaa", "bacbac", "aaabbb", "cbcbcb"])
    for seed in range(10):
        words = proposed(method, history, 10, seed, space)
        assert len(words) == 10
        assert not set(words) & set(history.observed)
        seen |= set(words)
    assert len(seen) > 40  # another sample each time
    assert np.mean([word.count("a") for word in seen]) > 2.5  # 2 of any words


def test_a_space_is_listed_once_and_only_if_it_is_small_enough() -> None:
    class Counted(ToySpace):
        lists = 0

        def enumerate(self) -> Iterator[Arch] | None:
            self.lists += 1
            return super().enumerate()

    space = Counted(3)
    assert everything(space, 26) is None
    assert space.lists == 0
    assert [arch.id for arch in everything(space, 27) or ()] == [arch.id for arch in ToySpace(3).enumerate() or ()]
    assert everything(space, 27) is everything(space, 27)
    space.size = None  # as of a space within limits
    assert everything(space, 25) is None
    assert space.lists == 2
    assert everything(make_space("darts"), 10**9) is None


@pytest.mark.parametrize("options", [{"predictor": "gp"}, {"predictor": "distance-gp", "predictor_options": {"distance": "path"}}])
def test_predictions_in_parts_are_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    method, history = WeakNAS(top=20, **options), knowing(["aabc", "bcba", "cccc", "abab", "bbca", "caaa"])
    whole = proposed(method, history, space=ToySpace(4))  # of which no two words have the same paths
    monkeypatch.setattr("searchers.weaknas._ROWS", 30)
    assert proposed(method, history, space=ToySpace(4)) == whole  # another object, which is encoded in parts, too


def test_what_a_table_holds_is_the_whole_space() -> None:
    members = Subset(SPACE, [SPACE.make(word) for word in ("aaaaa", "bbbbb", "ccccc", "abcab", "aabbb", "ccaac")])
    search = Engine(WeakNAS(num_initial=2), members)
    found = []
    while (suggestion := search.ask()) is not None:
        found.append(suggestion.arch.id)
        search.tell(suggestion.arch, suggestion.arch.id.count("a") / 5)
    assert sorted(found) == sorted(arch.id for arch in members.enumerate())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: WeakNAS(top=0), ConfigError, "top and sample must be at least 1, not 0 and 10000"),
        (lambda: WeakNAS(sample=0), ConfigError, "top and sample must be at least 1"),
        (lambda: WeakNAS(whole=-1), ConfigError, "whole not negative"),
        (lambda: make_method("weaknas", {"pool": 10}), UnknownNameError, "unknown option of searcher 'weaknas' 'pool'"),
        (lambda: Engine(WeakNAS(encoding="adjacency"), PlainSpace(2)), OutOfSpaceError, "use a path encoding"),
    ],
)
def test_mistakes_are_told_before_a_search_begins(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
