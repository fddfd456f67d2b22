"""What keeps BANANAS from local optima: targets that change from fit to fit, and random pools after long without a new best."""

from typing import Any

import numpy as np
import pytest

import searchers.surrogate
from raynas.history import History, Observation
from raynas.model import targets
from raynas.model.candidates import candidates
from raynas.model.predictors.mlp import MLPEnsemble
from raynas.spaces import make_space
from searchers import Bananas

QUICK = {"members": 2, "layers": 1, "width": 4, "epochs": 1}


@pytest.mark.parametrize(("since", "shares"), [(29, {0.0}), (30, {0.0, 1.0})])
def test_after_patience_evaluations_without_a_new_best_some_pools_are_random(
    since: int, shares: set[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, rng, history = make_space("nasbench201"), np.random.default_rng(0), History()
    for i in range(5 + since):
        value = 0.9 if i == 4 else 0.8 - 0.001 * i  # the fifth is the best
        history.add(Observation(space.sample(rng), "finished", ((200.0, value),)))
    assert len(history.observed) == 5 + since  # no two draws were equal
    drawn = []

    def record(*args: Any) -> Any:
        drawn.append(args[6])  # the random share
        return candidates(*args)

    monkeypatch.setattr(searchers.surrogate, "candidates", record)
    method = Bananas(pool=40, predictor_options=QUICK)
    for _ in range(20):
        method.propose(space, history, rng, 5)
    assert set(drawn) == shares


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
