"""TPE: what Optuna is told, and what comes of it."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from searcher_contract import ToySpace

from raynas import ChoiceSpace, Ordered
from raynas.errors import ConfigError
from raynas.history import History
from searchers import TPE, Engine
from searchers.tpe import _quiet

space = ChoiceSpace(
    "conditional", {"norm": ["batch", "group"], "groups": Ordered(2, 4, when={"norm": "group"}), "one": [1]}, lambda *_: None
)


def test_optuna_is_told_all_results_and_what_is_pending() -> None:
    history = History()
    batch, group, four = (
        space.make(norm="batch", one=1),
        space.make(norm="group", groups=2, one=1),
        space.make(norm="group", groups=4, one=1),
    )
    for arch in (batch, group, four):
        history.start(arch)
    history.end(batch.id, "finished", 1.0, (0.75,))
    history.end(four.id, "failed")
    with _quiet():
        trials = TPE()._study(space, history, 0).trials
    assert [(trial.state.name, trial.value) for trial in trials] == [("COMPLETE", 0.75), ("RUNNING", None)]
    assert [trial.params for trial in trials] == [{"0: 0 1": 0}, {"0: 0 1": 1, "1: 1 2": 1}]  # no parameter where nothing is to be chosen


@pytest.mark.parametrize("multivariate", [True, False])
def test_what_is_good_is_drawn_more_often(multivariate: bool) -> None:
    toy, history = ToySpace(6, listed=False), History()
    rng = np.random.default_rng(0)
    for _ in range(30):
        arch = toy.sample(rng)
        history.start(arch)
        history.end(arch.id, "finished", 1.0, (arch.id.count("a") / 6,))
    archs = TPE(multivariate=multivariate).propose(toy, history, rng, 10).archs
    assert len({arch.id for arch in archs}) == 10
    assert np.mean([arch.id.count("a") for arch in archs]) > 2.8  # of 6 letters; 2 by chance


def test_what_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="candidates must be at least 1"):
        TPE(candidates=0)
    found: Any = importlib.util.find_spec
    monkeypatch.setattr("searchers.tpe.find_spec", lambda name: None if name == "optuna" else found(name))
    with pytest.raises(ConfigError, match=r"needs Optuna: pip install 'raynas\[rivals\]'"):
        Engine(TPE(), "nasbench201")
