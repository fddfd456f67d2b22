"""Every searcher keeps the contract; what is particular to each; and real runs of Tune."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from searcher_contract import Make, SearcherContract, ToySpace, accuracy, complete, drive, ids, suggest

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError, ResumeError, UnknownNameError
from raynas.history import History
from raynas.spaces import SearchSpace
from searchers import (
    SEARCHERS,
    BananasSearch,
    Method,
    Proposal,
    RandomSearch,
    RegularizedEvolutionSearch,
    TuneSearcher,
)

_QUICK: dict[str, Any] = {"pool": 40, "predictor_options": {"members": 2, "layers": 2, "width": 8, "epochs": 3}}
_NETWORK: dict[str, Any] = {"members": 1, "layers": 1, "width": 8, "epochs": 3}
OPTIONS: dict[str, dict[str, Any]] = {  # settings that make a method quick, and go with a space that has paths and graphs only
    "bananas": _QUICK,
    "bananas-paper": _QUICK | {"predictor_options": _QUICK["predictor_options"] | {"standardize": True}},
    "alphax": {"predictor_options": _QUICK["predictor_options"]},
    "dngo": {"encoding": "path", "pool": 40, "predictor_options": {"width": 8, "epochs": 3}},
    "bohamiann": {"encoding": "path", "pool": 40, "predictor_options": {"chains": 2, "steps": 20, "burn_in": 9, "keep_every": 9}},
    "gcn": {"num_initial": 10, "sample": 60, "predictor_options": _NETWORK},
    "bonas": {"pool": 40, "predictor_options": {"network": _NETWORK}},
    "npenas": {"pool": 40, "predictor_options": _NETWORK | {"loss": "nll"}},
    "npenas-np": {"pool": 40, "predictor_options": _NETWORK},
    "weaknas": {"encoding": "path", "whole": 1000, "sample": 60, "predictor_options": _QUICK["predictor_options"]},
    "gp": {"kernel": "path", "pool": 40},
    "nasbot": {"kernel": "edit", "mutations": 20},
}
PROPOSING = [name for name, method in SEARCHERS.items() if not isinstance(method, str)]  # the others are trials
THREADED = ("bananas", "evolution", "local-search")  # one of each kind: a thread is the engine's, whatever method runs in it
ADMITTED = [*((name, "inline") for name in PROPOSING), *((name, "thread") for name in THREADED)]


def make_searcher(name: str, space: SearchSpace | str = "nasbench201", **options: Any) -> TuneSearcher:
    return type(name, (TuneSearcher,), {"of": SEARCHERS[name]})(space, **OPTIONS.get(name, {}) | options)


class TestContract(SearcherContract):
    """Every entry of SEARCHERS, with a model that is fitted within `suggest` and beside it."""

    @pytest.fixture(params=ADMITTED, ids="-".join)
    def make(self, request: pytest.FixtureRequest) -> Make:
        name, fitting = request.param
        return lambda space="nasbench201", **options: make_searcher(name, space, **{"fitting": fitting} | options)


def sequences(fitting: str) -> dict[str, list[str]]:
    """What each searcher suggests with seed 7: computed in two processes and compared."""
    return {name: ids(drive(make_searcher(name, seed=7, fitting=fitting))) for name in PROPOSING}


def test_the_same_suggestions_in_another_process() -> None:
    command = [sys.executable, "-c", "import json, test_searchers; print(json.dumps(test_searchers.sequences('inline')))"]
    environment = os.environ | {"PYTHONHASHSEED": "12345", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == sequences("inline")


# -- what the adapter does, whatever the method --------------------------------------------------------------------------


def test_wrong_settings_are_told() -> None:
    wrong: list[dict[str, Any]] = [{"num_initial": 0}, {"refit_every": 0}, {"fitting": "fork"}, {"mode": "maximum"}]
    for options in [*wrong, {"population": 0}, {"tournament": 0}]:
        with pytest.raises(ConfigError, match=next(iter(options))):
            RegularizedEvolutionSearch(**options)


def test_results_from_elsewhere() -> None:
    space = ToySpace(2)
    searcher = RandomSearch(space, num_initial=2, max_epochs=8)
    words = ["aa", "bb", "cc", "ab"]
    points: list[dict[str, Any]] = [{"value": 0.9}, {"value": math.nan}, {"value": 0.4, "error": True}, {"value": 0.3, "pruned": True}]
    for word, point in zip(words, points, strict=True):
        searcher.add_evaluated_point(parameters={"arch": space.make(word).to_config()}, **point)
    searcher.add_evaluated_point(parameters={"arch": space.make("ac").to_config()}, value=0.5, intermediate_values=[0.1, 0.5])
    observed = searcher.history.observed
    assert [observed[w].status for w in [*words, "ac"]] == ["finished", "failed", "failed", "stopped", "finished"]
    assert observed["aa"].curve == ((8.0, 0.9),)
    assert observed["ac"].curve == ((1.0, 0.1), (2.0, 0.5))
    searcher.engine.wait()
    assert not {*words, "ac"} & set(ids([suggest(searcher, f"t{i}") for i in range(4)]))


def test_folders_of_tune(tmp_path: Path) -> None:
    searcher, restored = RandomSearch(), RandomSearch(seed=5)
    drive(searcher, 12)
    searcher.save_to_dir(str(tmp_path), "2026-01-01_00-00-00")
    drive(searcher, 2, prefix="more")
    searcher.save_to_dir(str(tmp_path), "2026-01-01_00-00-01")
    restored.restore_from_dir(str(tmp_path))
    assert restored.to_json() == searcher.to_json()
    with pytest.raises(ResumeError, match="holds none"):
        restored.restore_from_dir(str(tmp_path / "empty"))
    with pytest.raises(ResumeError, match="holds none"):
        restored.suggest(trial_id="n0")


def test_a_suggestion_belongs_to_the_caller() -> None:
    searcher = RandomSearch()
    config = suggest(searcher, "t0")
    before = json.dumps(searcher.to_json())
    config["arch"].clear()
    assert json.dumps(searcher.to_json()) == before


# -- fitting beside the control loop ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gated(Method):
    """Its fit waits for a gate to open, then proposes the words that begin with `c`."""

    began: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    fits: list[tuple[int, str]] = field(default_factory=list)  # how many were observed, and where it was fitted

    learns: ClassVar[bool] = True

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        self.fits.append((len(history.observed), threading.current_thread().name))
        self.began.set()
        assert self.gate.wait(timeout=60)
        words = [f"c{rest}" for rest in ("aaa", "aab", "aac", "aba")]
        return Proposal([ToySpace(4).make(word) for word in words], [0.5, 0.5, 0.25, 0.25])

    def stopgap(self, space: SearchSpace, history: History, rng: np.random.Generator) -> Arch | None:
        words = (f"b{rest}" for rest in ("aaa", "aab", "aac", "aba", "abb", "abc"))
        return next(ToySpace(4).make(word) for word in words if word not in history)


def gated_searcher(**options: Any) -> tuple[TuneSearcher, Gated]:
    method = Gated(num_initial=2, refit_every=2, refit_share=1.0)
    return TuneSearcher(ToySpace(4), method=method, fitting="thread", **options), method


@pytest.fixture
def gated() -> Iterator[tuple[TuneSearcher, Gated]]:
    searcher, method = gated_searcher(points_to_evaluate=[{"word": word} for word in ("aaaa", "aaab", "aaac")])
    yield searcher, method
    method.gate.set()  # lets the thread end
    searcher.engine.wait()


def begin(searcher: TuneSearcher, method: Gated) -> None:
    """Ends the initial design; a fit is running afterwards, and one trial is live."""
    for i in range(3):
        suggest(searcher, f"t{i}")
    for i in range(2):
        searcher.on_trial_complete(trial_id=f"t{i}", result={"valid_accuracy": 0.5, "epoch": 1})
    assert method.began.wait(timeout=60)


def test_suggestions_do_not_wait_for_a_fit(gated: tuple[TuneSearcher, Gated]) -> None:
    searcher, method = gated
    begin(searcher, method)
    served = [suggest(searcher, f"u{i}")["arch"]["id"] for i in range(3)]  # the gate is closed: waiting would never end
    assert served == ["baaa", "baab", "baac"]
    searcher.on_trial_complete(trial_id="u0", result={"valid_accuracy": 0.1, "epoch": 1})
    assert searcher.refits == []
    assert len(method.fits) == 1  # one fit at a time
    assert method.fits[0][1] != threading.current_thread().name
    method.gate.set()
    searcher.engine.wait()
    assert [suggest(searcher, f"v{i}")["arch"]["id"] for i in range(2)] == ["caaa", "caab"]  # what the fit proposed
    assert [refit.observations for refit in searcher.refits] == [1]


def test_what_came_meanwhile_is_learned_by_the_next_fit(gated: tuple[TuneSearcher, Gated]) -> None:
    searcher, method = gated
    begin(searcher, method)
    searcher.on_trial_complete(trial_id="t2", result={"valid_accuracy": 0.5, "epoch": 1})
    method.gate.set()
    searcher.engine.wait()
    for i, (word, value) in enumerate([("caaa", 0.9), ("caab", 0.4)]):
        assert suggest(searcher, f"v{i}")["arch"]["id"] == word
        complete(searcher, f"v{i}", value)
        complete(searcher, f"v{i}", 0.1)  # a second end changes nothing
    assert [observed for observed, _ in method.fits] == [1, 3, 5]  # two or more new results each
    assert [refit.compared for refit in searcher.refits] == [0, 0, 2]
    assert searcher.refits[-1].mae == pytest.approx((0.4 + 0.1) / 2)  # both were expected to reach 0.5


def test_a_fit_that_runs_when_the_state_is_saved_is_made_up_for(gated: tuple[TuneSearcher, Gated], tmp_path: Path) -> None:
    searcher, method = gated
    begin(searcher, method)
    searcher.save(checkpoint_path=str(tmp_path / "state"))
    restored, other = gated_searcher()
    other.gate.set()
    restored.restore(checkpoint_path=str(tmp_path / "state"))
    suggest(restored, "u0")
    restored.engine.wait()
    assert [observed for observed, _ in other.fits] == [2]
    assert suggest(restored, "u1")["arch"]["id"] == "caaa"
    assert set(restored.history.pending) == {"aaac", "baaa", "caaa"}


def test_a_young_search_refits_more_often() -> None:
    searcher = BananasSearch(ToySpace(6), num_initial=10, refit_every=4, refit_share=0.15, fitting="inline", encoding="path", **_QUICK)
    drive(searcher, 50, workers=1)
    expected = [10]
    while (following := expected[-1] + min(4, int(0.15 * expected[-1]))) < 50:  # a share of what is observed, at most `refit_every`
        expected.append(following)
    assert [refit.observations for refit in searcher.refits] == expected
    assert expected[:6] == [10, 11, 12, 13, 14, 16]
    assert expected[-3:] == [41, 45, 49]


def test_a_searcher_without_a_model_has_no_thread() -> None:
    searcher = make_searcher("random", fitting="thread")
    drive(searcher, 14)
    assert searcher.engine.fitting == "inline"
    assert searcher.refits == []
    assert searcher.engine._beside is None


# -- BANANAS ---------------------------------------------------------------------------------------------------------------


def letters(searcher: TuneSearcher, trials: int) -> list[float]:
    """The values of the words that are tried one after the other."""
    values = []
    for i in range(trials):
        word = suggest(searcher, f"t{i}")["arch"]["id"]
        values.append(word.count("a") / len(word))
        complete(searcher, f"t{i}", values[-1])
    return values


@pytest.mark.parametrize("acquisition", ["its", "ts", "ucb", "ei", "pi", "mean"])
def test_bananas_learns_and_random_search_does_not(acquisition: str) -> None:
    options: dict[str, Any] = {
        "encoding": "path",
        "acquisition": acquisition,
        "exploration": 1.0,
        "predictor_options": {"epochs": 40, "width": 16, "learning_rate": 0.01},
    }
    searcher = BananasSearch(ToySpace(6), num_initial=10, refit_every=5, refit_share=1.0, fitting="inline", pool=100, **options)
    found = letters(searcher, 40)
    assert max(found) >= 5 / 6  # 13 of 729
    assert np.mean(found[20:]) > np.mean(letters(make_searcher("random", ToySpace(6)), 40)) + 0.15
    assert [refit.observations for refit in searcher.refits] == list(range(10, 40, 5))
    assert [refit.compared for refit in searcher.refits] == [0, 5, 5, 5, 5, 5]
    assert all(refit.mae is not None and refit.mae < 0.5 for refit in searcher.refits[1:])


def test_bananas_proposes_the_best_of_the_pool() -> None:
    searcher = BananasSearch(ToySpace(4), encoding="path", acquisition="mean", pool=81, random_share=0.5, fitting="inline")
    history = History()
    for arch in list(ToySpace(4).enumerate() or ())[::2]:
        searcher.engine.tell(arch, arch.id.count("a") / 4)
    history = searcher.history.copy()
    space, method = searcher.engine.space, searcher.engine.method
    proposal = method.propose(space, history, np.random.default_rng(0), 5)
    assert len(proposal.archs) == len(proposal.expected) == 5
    assert not {arch.id for arch in proposal.archs} & set(history.observed)
    expected = [value for value in proposal.expected if value is not None]
    assert expected == sorted(expected, reverse=True)
    for arch, value in zip(proposal.archs, expected, strict=True):
        assert value == pytest.approx(arch.id.count("a") / 4, abs=0.15)  # in the units of the metric
        assert arch.id.count("a") >= 2
    assert history.to_json() == searcher.history.to_json()  # a proposal changes nothing
    again = method.propose(space, history, np.random.default_rng(0), 5)
    assert again == proposal


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoding": "pth"}, UnknownNameError, "did you mean 'path'"),
        ({"encoding": "path+operation_pairs"}, OutOfSpaceError, "does not count pairs of operations"),
        ({"predictor": "forest"}, UnknownNameError, "unknown predictor 'forest'"),
        ({"predictor_options": {"layer": 2}}, UnknownNameError, "did you mean 'layers'"),
        ({"target": "ranks"}, UnknownNameError, "unknown target 'ranks'"),
        ({"target": "rank_gauss+log"}, UnknownNameError, "unknown target 'log'"),
        ({"acquisition": "lcb"}, UnknownNameError, "unknown acquisition function 'lcb'"),
        ({"pool": 0}, ConfigError, "pool, parents and patience"),
        ({"parents": 0}, ConfigError, "pool, parents and patience"),
        ({"survey_after": 0}, ConfigError, "survey_after must be at least 1"),
        ({"rates": ()}, ConfigError, "rates"),
        ({"rates": (1.0, 0.0)}, ConfigError, "rates"),
        ({"random_share": 1.5}, ConfigError, "random_share"),
    ],
)
def test_wrong_options_of_bananas(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BananasSearch(ToySpace(2), **options)


def test_evolution_climbs() -> None:
    values = letters(RegularizedEvolutionSearch(ToySpace(6), population=10, tournament=5), 80)
    assert np.mean(values[40:]) > np.mean(values[:10]) + 0.2


# -- with Tune -------------------------------------------------------------------------------------------------------------


def training() -> Callable[[dict[str, Any]], None]:
    """A function trainable; a closure, so that it travels to the workers by value."""

    def train(config: dict[str, Any]) -> None:
        import zlib

        final = zlib.crc32(config["arch"]["id"].encode()) / 2**32
        for epoch in (1, 2, 4):
            tune.report({"valid_accuracy": final * epoch / 4, "epoch": epoch})

    return train


class InterruptOnce(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Ends the run after four trials, as Ctrl-C does, with others still running."""

    def __init__(self, marker: Path) -> None:
        self.marker, self.ended = marker, 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended += 1
        if self.ended == 4 and not self.marker.exists():
            self.marker.touch()
            signal.raise_signal(signal.SIGUSR1)  # Tune treats it as SIGINT


@pytest.mark.slow
def test_tune_with_asha_and_a_concurrency_limit(local_ray: None, tmp_path: Path) -> None:
    searcher = BananasSearch("nasbench201", max_epochs=4, num_initial=4, refit_every=4, **OPTIONS["bananas"])
    config = tune.TuneConfig(
        metric="valid_accuracy",
        mode="max",
        search_alg=ConcurrencyLimiter(searcher, max_concurrent=2),
        scheduler=ASHAScheduler(time_attr="epoch", max_t=4, grace_period=1, reduction_factor=2),
        num_samples=16,
        reuse_actors=True,
    )
    results = tune.Tuner(training(), tune_config=config, run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0)).fit()
    assert results.num_errors == 0
    epochs = {result.config["arch"]["id"]: result.metrics["epoch"] for result in results}
    assert len(epochs) == len(results) == 16
    assert {id: o.status for id, o in searcher.history.observed.items()} == {
        id: "finished" if epoch == 4 else "stopped" for id, epoch in epochs.items()
    }
    assert set(epochs.values()) >= {1, 4}  # some were stopped, some were not
    for id, observation in searcher.history.observed.items():
        final = accuracy({"arch": {"id": id}})
        assert observation.curve == tuple((float(epoch), final * epoch / 4) for epoch in (1, 2, 4) if epoch <= epochs[id])
    assert not searcher.history.pending
    searcher.engine.wait()  # trials may have ended before the first fit has
    assert searcher.refits
    assert results.get_best_result().metrics["valid_accuracy"] == max(o.value for o in searcher.history.observed.values())


@pytest.mark.slow
def test_tune_goes_on_after_an_interruption(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # Tune leaves the files of interrupted trials open
    searcher = BananasSearch(ToySpace(2), encoding="path", num_initial=2, refit_every=2, **OPTIONS["bananas"])
    config = tune.TuneConfig(
        metric="valid_accuracy", mode="max", search_alg=searcher, num_samples=20, max_concurrent_trials=2, reuse_actors=True
    )
    run = tune.RunConfig(name="run", storage_path=str(tmp_path), verbose=0, callbacks=[InterruptOnce(tmp_path / "interrupted")])
    handler = signal.getsignal(signal.SIGUSR1)
    try:
        first = tune.Tuner(training(), tune_config=config, run_config=run).fit()
        ended = {result.config["arch"]["id"]: result.metrics["valid_accuracy"] for result in first if (result.metrics or {}).get("done")}
        assert 4 <= len(ended) < 9
        assert len(searcher.history.pending) > 0
        second = tune.Tuner.restore(str(tmp_path / "run"), trainable=training()).fit()
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert second.num_errors == 0
    words = [result.config["arch"]["id"] for result in second]
    assert sorted(words) == sorted(arch.id for arch in ToySpace(2).enumerate() or ())  # all nine, none of them twice; then it ended
    assert all(result.metrics["epoch"] == 4 for result in second)
    assert ended.items() <= {result.config["arch"]["id"]: result.metrics["valid_accuracy"] for result in second}.items()
