"""Searches with many trials under way: what BANANAS proposes while results are still to come."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from toy_space import ToySpace

from raynas.arch import Arch
from raynas.history import History, Observation
from raynas.model.predictors.base import EnsemblePrediction, Floats
from raynas.spaces import SearchSpace
from searchers.bananas import Bananas, BananasPaper

SPACE = ToySpace(6)
BAD = ["".join("bc"[i >> k & 1] for k in range(6)) for i in range(2, 34)]  # words without `a`


class Halves:
    """Two members: one looks for `a` in the first half of a word, one in the second."""

    def fit(self, space: SearchSpace, archs: Sequence[Arch], targets: Floats, seed: int) -> "Halves":
        return self

    def predict(self, archs: Sequence[Arch]) -> EnsemblePrediction:
        counts = [[arch.id[:3].count("a"), arch.id[3:].count("a")] for arch in archs]
        return EnsemblePrediction(np.array(counts, dtype=np.float64).T)


@pytest.fixture(autouse=True)
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (Bananas, BananasPaper):
        monkeypatch.setattr(method, "model", lambda self: Halves())


def history_of(observed: Iterable[str], pending: Iterable[str]) -> History:
    history = History()
    for word in observed:
        history.add(Observation(SPACE.make(word), "finished", ((1.0, word.count("a") / 6),)))
    for word in pending:
        history.start(SPACE.make(word))
    return history


@pytest.mark.parametrize(
    ("method", "pending", "leaders"),
    [
        (Bananas(target="identity", exploration=0.1), BAD[:11], {"aaabbb", "bbbaaa"}),  # each the best for one member
        (Bananas(target="identity", exploration=0.1), BAD[:10], {"aabaab"}),  # the best for both together
        (Bananas(target="identity", acquisition="mean"), BAD, {"aabaab"}),
        (BananasPaper(target="identity", exploration=0.1), BAD, {"aabaab"}),
    ],
)
def test_in_a_wide_search_a_proposal_follows_one_member(
    method: Bananas, pending: list[str], leaders: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = [SPACE.make(word) for word in ("ccccca", "aaabbb", "bbbaaa", "aabaab")]
    monkeypatch.setattr(type(method), "extend", lambda *given: pool)
    history = history_of(["cccccc"], pending)
    proposals = [method.propose(SPACE, history, np.random.default_rng(seed), 3) for seed in range(20)]
    assert {proposal.archs[0].id for proposal in proposals} == leaders
    assert all(len({arch.id for arch in proposal.archs}) == 3 for proposal in proposals)
    if len(leaders) == 2:
        assert any({arch.id for arch in proposal.archs[:2]} == leaders for proposal in proposals)  # also within a batch


def test_a_batch_larger_than_the_pool_is_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [SPACE.make(word) for word in ("aaabbb", "bbbaaa")]
    monkeypatch.setattr(Bananas, "extend", lambda *given: pool)
    proposal = Bananas().propose(SPACE, history_of(["cccccc"], BAD), np.random.default_rng(0), 5)
    assert {arch.id for arch in proposal.archs} == {"aaabbb", "bbbaaa"}


def best_reached(method: Bananas, pending: Sequence[str]) -> int:
    """Letters `a` of the best candidate, where all that has been observed is bad, as of what trains fast, which comes in first."""
    history, pool = history_of(["bbbbbb", "cbbbbb"], pending), [SPACE.make("cccccc")]
    extended = method.extend(SPACE, history, np.random.default_rng(0), 1, pool, Halves(), 0.0, {})
    assert not {arch.id for arch in extended} & {*history.observed, *history.pending}
    return max(arch.id.count("a") for arch in extended)


def test_candidates_descend_from_what_is_under_way() -> None:
    method = Bananas(num_initial=1, pool=10, parents=1, climbs=1)
    assert best_reached(method, ["aaaabb", "bbbbcc"]) >= 5
    assert best_reached(replace(method, num_initial=2), ["aaaabb", "bbbbcc"]) < 4
    assert best_reached(replace(method, climbs=0), ["aaaabb", "bbbbcc"]) == 0


def test_the_more_is_under_way_the_further_candidates_go() -> None:
    method = Bananas(num_initial=1, pool=10, parents=1, climbs=1)
    assert best_reached(method, BAD) > best_reached(method, BAD[:2]) > best_reached(method, [])
