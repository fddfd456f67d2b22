"""What keeps BANANAS from local optima: targets that change from fit to fit, and wider pools after long without a new best."""

from typing import Any

import numpy as np
import pytest

import searchers.surrogate
from raynas.history import History, Observation
from raynas.model import targets
from raynas.model.candidates import candidates, leading
from raynas.model.predictors.mlp import MLPEnsemble
from raynas.outcome import Objective
from raynas.spaces import make_space
from searchers import Bananas

QUICK = {"members": 2, "layers": 1, "width": 4, "epochs": 1}
SPACE = make_space("nasbench201")


def stuck(since: int) -> History:
    """A search whose best, the fifth, is so many evaluations old."""
    rng, history = np.random.default_rng(0), History()
    for i in range(5 + since):
        value = 0.9 if i == 4 else 0.8 - 0.001 * i
        history.add(Observation(SPACE.sample(rng), "finished", ((200.0, value),)))
    assert len(history.observed) == 5 + since  # no two draws were equal
    return history


@pytest.mark.parametrize(("since", "shares"), [(29, {0.0}), (30, {0.0, 1.0})])
def test_after_patience_evaluations_without_a_new_best_some_pools_are_random(
    since: int, shares: set[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def record(*args: Any) -> Any:
        drawn.append(args[6])  # the random share
        return candidates(*args)

    monkeypatch.setattr(searchers.surrogate, "candidates", record)
    method, history, rng = Bananas(pool=40, predictor_options=QUICK), stuck(since), np.random.default_rng(0)
    for _ in range(20):
        method.propose(SPACE, history, rng, 5)
    assert set(drawn) == shares


@pytest.mark.parametrize(("since", "surveyed"), [(39, False), (40, True)])
def test_long_after_the_last_new_best_candidates_descend_from_all_that_is_known(
    since: int, surveyed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, learned = MLPEnsemble.fit, []

    def record(predictor: MLPEnsemble, inputs: Any, values: Any, seed: int, weights: Any) -> Any:
        learned.append((tuple(values), set(weights)))
        return fit(predictor, inputs, values, seed, weights)

    monkeypatch.setattr(MLPEnsemble, "fit", record)
    method, history = Bananas(survey_after=40, patience=None, climbs=0, predictor_options=QUICK), stuck(since)
    proposal = method.propose(SPACE, history, np.random.default_rng(0), 40)
    parents, best = {origin.parent for origin in proposal.origins}, {arch.id for arch in leading(history, method.parents)}
    assert len(proposal.archs) == 40
    assert (parents <= best) != surveyed
    values, weights = learned[0]
    assert (weights == {1.0}) == surveyed
    assert values == tuple(targets.log_error(history.targets()[1]).values) or not surveyed


def test_several_objectives_have_no_surveys() -> None:
    history = History(objective=Objective.parse(["valid_accuracy", "-parameters"]))
    for observation in stuck(40).observed.values():
        history.add(Observation(observation.arch, "finished", observation.curve, others=(1.0,)))
    proposed = [
        Bananas(survey_after=wait, pool=40, predictor_options=QUICK).propose(SPACE, history, np.random.default_rng(0), 3).archs
        for wait in (1, None)
    ]
    assert proposed[0] == proposed[1]


def test_fits_learn_ranks_and_log_errors_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    space, rng, history = make_space("nasbench201"), np.random.default_rng(0), History()
    for i in range(8):
        history.add(Observation(space.sample(rng), "finished", ((200.0, 0.6 + 0.02 * i**2 / 5),)))
    method = Bananas(pool=40, predictor_options=QUICK)
    fit, learned = MLPEnsemble.fit, []

    def record(predictor: MLPEnsemble, inputs: Any, values: Any, *args: Any) -> Any:
        learned.append(tuple(values))
        return fit(predictor, inputs, values, *args)

    monkeypatch.setattr(MLPEnsemble, "fit", record)
    for _ in range(20):
        method.propose(space, history, rng, 5)
    values = history.targets()[1]
    assert set(learned) == {tuple(targets.rank_gauss(values).values), tuple(targets.log_error(values).values)}
