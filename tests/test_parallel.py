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
        (Bananas(target="identity"), ["cccccc"], {"aaabbb", "bbbaaa"}),  # each the best for one member
        (Bananas(target="identity", exploration=0.1), [], {"aabaab"}),  # the best for both together
        (Bananas(target="identity", acquisition="mean"), ["cccccc"], {"aabaab"}),
        (BananasPaper(target="identity", exploration=0.1), ["cccccc"], {"aabaab"}),
    ],
)
def test_with_trials_under_way_a_proposal_follows_one_member(
    method: Bananas, pending: list[str], leaders: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = [SPACE.make(word) for word in ("bbbbbb", "aaabbb", "bbbaaa", "aabaab")]
    monkeypatch.setattr(type(method), "extend", lambda *given: pool)
    history = history_of(["bbbbbc"], pending)
    proposals = [method.propose(SPACE, history, np.random.default_rng(seed), 3) for seed in range(20)]
    assert {proposal.archs[0].id for proposal in proposals} == leaders
    assert all(len({arch.id for arch in proposal.archs}) == 3 for proposal in proposals)
    if pending and len(leaders) == 2:
        assert any({arch.id for arch in proposal.archs[:2]} == leaders for proposal in proposals)  # also within a batch


def test_a_batch_larger_than_the_pool_is_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [SPACE.make(word) for word in ("aaabbb", "bbbaaa")]
    monkeypatch.setattr(Bananas, "extend", lambda *given: pool)
    proposal = Bananas().propose(SPACE, history_of(["bbbbbc"], ["cccccc"]), np.random.default_rng(0), 5)
    assert {arch.id for arch in proposal.archs} == {"aaabbb", "bbbaaa"}


def best_reached(method: Bananas, pending: Sequence[str]) -> int:
    """Letters `a` of the best candidate, where all that has been observed is bad, as of what trains fast, which comes in first."""
    history, pool = history_of(["bbbbbb", "bbbbbc"], pending), [SPACE.make("cccccc")]
    extended = method.extend(SPACE, history, np.random.default_rng(0), 1, pool, Halves(), 0.0, {})
    assert not {arch.id for arch in extended} & {*history.observed, *history.pending}
    return max(arch.id.count("a") for arch in extended)


def test_candidates_descend_from_what_is_under_way() -> None:
    method = Bananas(pool=10, parents=1, climbs=1)
    alone = best_reached(method, [])
    assert best_reached(method, ["aaaabb"]) >= 5 > alone
    assert best_reached(replace(method, climbs=0), ["aaaabb"]) == 0


def test_the_more_is_under_way_the_further_candidates_go() -> None:
    method = Bananas(pool=10, parents=1, climbs=1)
    words = ["".join("bc"[i >> k & 1] for k in range(6)) for i in range(2, 34)]
    assert best_reached(method, words) > best_reached(method, words[:1]) >= best_reached(method, [])
