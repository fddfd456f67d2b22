"""gcn, bonas and npenas: what makes each of them the method that it is. m: candidates."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from test_weaknas import knowing
from toy_space import ToySpace

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.model.predictors import GaussianPrediction
from searchers import GCN, NPENAS, Bananas, Method, make_method

QUICK: dict[str, Any] = {"members": 1, "layers": 2, "width": 16, "hidden": 16, "epochs": 60, "learning_rate": 0.01}
FAKE: dict[str, Any] = {"predictor": "test_graph_searches:Known", "predictor_options": {}}


def number(word: str) -> float:
    """What `Known` expects of a word: it has nothing to do with the values that are observed."""
    return int(word.translate(str.maketrans("abc", "012")), 3) / 3 ** len(word)


def doubt(word: str) -> float:
    return word.count("a") / 2


class Known:
    """A predictor that learns nothing: its means and deviations are those of `number` and `doubt`."""

    def fit(self, *_: Any) -> "Known":
        return self

    def predict(self, archs: Sequence[Arch]) -> GaussianPrediction:
        mean, std = (np.array([of(arch.id) for arch in archs]) for of in (number, doubt))
        return GaussianPrediction(mean, std, lambda: np.diag(std**2))


def words(archs: Iterable[Arch]) -> list[str]:
    return [arch.id for arch in archs]


def unknown(space: ToySpace, history: History) -> list[str]:
    return [arch.id for arch in space.enumerate() or () if arch.id not in history]


def test_gcn_evaluates_those_of_its_sample_that_rank_best() -> None:
    """The reference code of the comparison with BANANAS took the first of the list that was not ranked."""
    space, history = ToySpace(4), knowing(["abca", "cccc", "bbca", "aaaa"])
    method = make_method("gcn", FAKE | {"sample": 500})  # all 77 others
    proposal = method.propose(space, history, np.random.default_rng(0), 10)
    assert words(proposal.archs) == sorted(unknown(space, history), key=number, reverse=True)[:10]
    assert [origin.acquisition for origin in proposal.origins] == [number(word) for word in words(proposal.archs)]
    few = make_method("gcn", FAKE | {"sample": 20})
    first, second = (words(few.propose(space, history, np.random.default_rng(seed), 10).archs) for seed in (0, 1))
    assert set(first) != set(second)
    assert first == sorted(first, key=number, reverse=True)
    assert 0.5 < np.mean([number(word) for word in first + second]) < 0.9  # the better half of any twenty


def test_bonas_proposes_those_of_highest_mean_and_half_a_deviation() -> None:
    space, history = ToySpace(3), knowing(["abc", "ccc"])
    method = make_method("bonas", FAKE | {"random_share": 1.0})  # all 25 others

    def bound(word: str, deviations: float = 0.5) -> float:
        return number(word) + deviations * doubt(word)

    proposal = method.propose(space, history, np.random.default_rng(0), 6)
    expected = sorted(unknown(space, history), key=bound, reverse=True)[:6]
    assert words(proposal.archs) == expected
    assert [origin.acquisition for origin in proposal.origins] == pytest.approx([bound(word) for word in expected])
    for other in (0.0, 0.25, 1.0):
        assert sorted(unknown(space, history), key=lambda word: bound(word, other), reverse=True)[:6] != expected


@pytest.mark.parametrize("name", ["npenas", "npenas-np"])
def test_candidates_of_npenas_are_offspring_of_the_best_ten(name: str) -> None:
    space, rng = ToySpace(8), np.random.default_rng(0)
    history = knowing({space.sample(rng).id for _ in range(60)})
    archs, values = history.targets()
    best = {archs[i].id for i in np.argsort(-values, kind="stable")[:10]}
    proposal = make_method(name, FAKE).propose(space, history, rng, 50)
    assert len(proposal.archs) == 50
    assert len({origin.parent for origin in proposal.origins}) > 5
    for word, origin in zip(words(proposal.archs), proposal.origins, strict=True):
        assert origin.parent in best
        assert sum(a != b for a, b in zip(word, origin.parent, strict=True)) == 1


@pytest.mark.parametrize(("name", "draws"), [("npenas", True), ("npenas-np", False)])
def test_npenas_draws_and_its_variant_does_not(name: str, draws: bool) -> None:
    method, prediction = make_method(name), Known().predict([ToySpace(4).make(word) for word in ("abca", "aaaa", "bacb", "cabb")])
    first, again, other = (method.score(prediction, 0.0, np.random.default_rng(seed)) for seed in (0, 0, 1))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first, again)
    assert (first == other).all() != draws
    assert (first == prediction.mean).all() != draws


def share(history: History, found: Sequence[Arch]) -> tuple[float, float]:
    """Mean number of letters `a` in known words and in those found."""
    known, new = (float(np.mean([word.count("a") for word in each])) for each in (history.observed, words(found)))
    return known, new


@pytest.mark.parametrize("name", ["gcn", "bonas", "npenas", "npenas-np"])
def test_the_network_ranks_the_candidates(name: str) -> None:
    space, rng = ToySpace(6), np.random.default_rng(0)
    history = knowing({space.sample(rng).id for _ in range(60)})
    method: Method = make_method(name, {"predictor_options": {"network": QUICK} if name == "bonas" else QUICK})
    known, found = share(history, method.propose(space, history, rng, 5).archs)
    assert found > known + 1.5


def test_settings_stand_above_those_of_the_method_and_another_predictor_has_none_of_these() -> None:
    model: Any = NPENAS(predictor_options={"width": 8}).model()
    assert (model.width, model.layer, model.loss) == (8, "gin", "nll")
    assert NPENAS(predictor="mlp").model() == Bananas().model()


def test_before_anything_is_known_and_at_the_end_of_a_space() -> None:
    space, rng = ToySpace(2), np.random.default_rng(0)
    method = GCN(num_initial=2, sample=4, **FAKE)
    assert len(method.propose(space, History(), rng, 3).archs) == 3
    history = knowing(words(space.enumerate() or ())[:-1])
    assert words(method.propose(space, history, rng, 3).archs) == ["cc"]
    assert method.propose(space, knowing(words(space.enumerate() or ())), rng, 3).archs == ()


def test_a_sample_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="sample must be at least 1, not 0"):
        make_method("gcn", {"sample": 0})
