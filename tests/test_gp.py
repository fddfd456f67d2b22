"""Bayesian optimisation with a Gaussian process on distances, and NASBOT's evolution. m: candidates."""

from typing import Any

import numpy as np
import pytest
from toy_space import PlainSpace, ToySpace

from raynas.errors import ConfigError, OutOfSpaceError, UnknownNameError
from raynas.history import History, Observation
from raynas.model.predictors.distance_gp import DistanceProcess
from raynas.spaces import SearchSpace, make_space
from searchers import Engine, GPBayesOpt, Method, Nasbot, Random

METHODS = [GPBayesOpt(kernel="path", refit_every=5), GPBayesOpt(kernel="edit", refit_every=5), Nasbot()]


def value(text: str) -> float:
    return (text.count("nor_conv") / 6) if "|" in text else text.count("a") / len(text)


def history(space: SearchSpace, archs: Any) -> History:
    made = History()
    for arch in archs:
        made.add(Observation(arch, "finished", ((1.0, value(arch.id)),)))
    return made


def searched(method: Method, seed: int) -> float:
    """The best of 30 words, one after the other."""
    engine, best = Engine(method, ToySpace(6), seed=seed), 0.0
    for _ in range(30):
        suggestion = engine.ask()
        assert suggestion is not None
        best = max(best, value(suggestion.arch.id))
        engine.tell(suggestion.arch, value(suggestion.arch.id))
    assert engine.problem is None
    return best


@pytest.mark.parametrize("method", METHODS, ids=["path", "edit", "nasbot"])
def test_it_finds_what_random_search_does_not(method: Method) -> None:
    assert searched(method, 0) > np.mean([searched(Random(), seed) for seed in range(8)]) + 0.1


def test_candidates_are_edits_of_the_five_best() -> None:
    space, rng = ToySpace(6), np.random.default_rng(0)
    known = history(space, [space.make(word) for word in ("aaaabb", "aaabbb", "aabbbb", "abbbbb", "bbbbbb", "cccccc", "cccccb")])
    method = GPBayesOpt(kernel="path", pool=30, rates=(1.0,))
    parents = {origin.parent for origin in method.propose(space, known, rng, 20).origins}
    assert parents <= {"aaaabb", "aaabbb", "aabbbb", "abbbbb", "bbbbbb"}
    assert len(parents) > 2


def test_a_batch_foresees_itself() -> None:
    space, rng, method = make_space("nasbench201"), np.random.default_rng(0), GPBayesOpt(kernel="path", acquisition="ei")
    known = history(space, [space.sample(rng) for _ in range(15)])

    def spread(archs: Any) -> float:
        """What the process does not know of the values of all together: the volume of their distribution."""
        observed, values = known.targets()
        joint = method.model().fit(space, observed, values, 0).predict(archs).covariance()
        return float(np.linalg.slogdet(joint + 1e-9 * np.eye(len(joint)))[1])

    class Blind(GPBayesOpt):
        foresees = False

    both = (method, Blind(kernel="path", acquisition="ei"))
    batch, blind = (each.propose(space, known, np.random.default_rng(1), 6).archs for each in both)
    assert spread(batch) > spread(blind)
    assert batch[0] == blind[0]  # the best of all comes first


@pytest.mark.parametrize("method", [GPBayesOpt(kernel="path"), Nasbot()], ids=["gp", "nasbot"])
def test_what_is_pending_is_not_proposed_again(method: GPBayesOpt) -> None:
    space, rng = make_space("nasbench201"), np.random.default_rng(0)
    known = history(space, [space.sample(rng) for _ in range(15)])
    first = method.propose(space, known, np.random.default_rng(1), 2).archs[0]
    known.start(first)
    after = method.propose(space, known, np.random.default_rng(1), 6).archs
    assert first.id not in {arch.id for arch in after}
    assert method.propose(space, known, np.random.default_rng(1), 6).archs == after


def test_evolution_raises_the_expected_improvement() -> None:
    space, rng, method = make_space("nasbench101"), np.random.default_rng(0), Nasbot()
    archs = [space.sample(rng) for _ in range(30)]
    values = np.array([len(arch["operations"]) + arch["operations"].count("conv3x3-bn-relu") for arch in archs], dtype=np.float64)
    known = History()
    for arch, accuracy in zip(archs, values, strict=True):
        known.add(Observation(arch, "finished", ((1.0, accuracy),)))
    fitted, lineage = DistanceProcess("otmann").fit(space, *known.targets(), 0), dict[str, str]()
    pool = method.begin(space, known, rng, 1, lineage)
    grown = method.extend(space, known, rng, 1, pool, fitted, float(values.max()), lineage)
    scores = method.score(fitted.predict(grown), float(values.max()), rng)
    assert len(pool) == 10
    assert len(grown) == len({arch.id for arch in grown}) == 10 + 3 * 50  # 25 times the root of 30, in whole rounds
    assert not {arch.id for arch in grown} & set(known.observed)
    assert {arch.id for arch in grown[10:]} <= set(lineage)
    assert scores[10:].max() > scores[:10].max()
    assert scores[-50:].mean() > scores[:10].mean()  # children of the better ones are better


def test_failed_and_stopped_trials_and_no_result_at_all() -> None:
    space = ToySpace(4)
    for method in (GPBayesOpt(kernel="path", num_initial=2), Nasbot(num_initial=2)):
        known = history(space, [space.make("aabb")])
        known.add(Observation(space.make("cccc"), "failed", ()))
        known.add(Observation(space.make("bbbb"), "stopped", ((0.5, 0.1),)))
        proposed = method.propose(space, known, np.random.default_rng(0), 3)
        assert len({arch.id for arch in proposed.archs} - set(known.observed)) == 3
        assert len(method.propose(space, History(), np.random.default_rng(0), 3).archs) == 3


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (lambda: Engine(GPBayesOpt(), PlainSpace(2)), OutOfSpaceError, "space 'toy' defines no adjacency encoding"),
        (lambda: Engine(GPBayesOpt(kernel="edit"), PlainSpace(2)), OutOfSpaceError, "does not say how its architectures are graphs"),
        (lambda: Engine(Nasbot(), PlainSpace(2)), OutOfSpaceError, "does not say how its architectures are graphs"),
        (lambda: GPBayesOpt(kernel="paths"), UnknownNameError, "unknown distance 'paths'; did you mean 'path'"),
        (lambda: Nasbot(mutations=0), ConfigError, "mutations must be at least 1"),
    ],
)
def test_mistakes_are_told_before_a_search_begins(method: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        method()
