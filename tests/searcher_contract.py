"""What every searcher must do, whatever its method: a test class that is run for each of them in test_searchers.py.

Tune calls with keywords, so these tests do too.
"""

import json
import logging
import math
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.tune.search import Searcher
from toy_space import ToySpace as ToySpace

from raynas.errors import OutOfSpaceError, ResumeError
from searchers import TuneSearcher

TRIALS = 24  # enough for two fits after the initial design

Make = Callable[..., TuneSearcher]


def changed(**changes: Any) -> Callable[[dict[str, Any]], str]:
    """A damage: other values in the state of the engine."""
    return lambda state: json.dumps(state | {"engine": state["engine"] | changes})


DAMAGES: dict[str, Callable[[dict[str, Any]], str | bytes | None]] = {  # what may have become of a saved state
    "missing": lambda state: None,
    "empty": lambda state: "",
    "garbage": lambda state: "no JSON {",
    "binary": lambda state: b"\x80\x04\xff\x00",
    "truncated": lambda state: json.dumps(state)[:-20],
    "list": lambda state: "[]",
    "null": lambda state: "null",
    "nothing": lambda state: "{}",
    "version": changed(version=99),
    "method": changed(method="Another"),
    "space": changed(space="toy"),
    "history": changed(history=[]),
    "arch": changed(history={"observed": [["x", "finished", [], [], 0.0]], "pending": [], "memory": None}),
    "queue": changed(queue=[[{"space": "nasbench201"}, None, None]]),
    "rng": changed(rng={"bit_generator": "MT19937"}),
}


def accuracy(config: Mapping[str, Any]) -> float:
    """A value that is the same in every process."""
    return zlib.crc32(config["arch"]["id"].encode()) / 2**32


def suggest(searcher: TuneSearcher, trial_id: str) -> dict[str, Any]:
    suggested = searcher.suggest(trial_id=trial_id)
    assert isinstance(suggested, dict)
    return suggested


def complete(searcher: TuneSearcher, trial_id: str, value: float, epoch: int = 8) -> None:
    result = {"valid_accuracy": value, "epoch": epoch, "training_iteration": epoch, "done": True}
    searcher.on_trial_complete(trial_id=trial_id, result=result)
    searcher.engine.wait()  # a fit beside the control loop is ready, so what comes next does not depend on speed


def drive(searcher: TuneSearcher, trials: int = TRIALS, workers: int = 3, prefix: str = "t") -> list[dict[str, Any]]:
    """The configurations of so many trials, `workers` of them at once, that end in the order in which they began."""
    configs: list[dict[str, Any]] = []
    running: deque[int] = deque()
    for i in range(trials):
        if len(running) == workers:
            first = running.popleft()
            complete(searcher, f"{prefix}{first}", accuracy(configs[first]))
        configs.append(suggest(searcher, f"{prefix}{i}"))
        running.append(i)
    for i in running:
        complete(searcher, f"{prefix}{i}", accuracy(configs[i]))
    return configs


def ids(configs: list[dict[str, Any]]) -> list[str]:
    return [config["arch"]["id"] for config in configs]


class SearcherContract:
    """Needs the fixture `make`: a function from a space and options to a searcher."""

    # -- suggestions -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("space_name", ["nasbench201", "nasbench101", "darts"])
    def test_a_suggestion_is_plain_json_of_the_space(self, make: Make, space_name: str) -> None:
        searcher = make(space_name)
        for config in drive(searcher, 14):
            assert set(config) == {"arch"}
            arch = searcher.engine.space.from_config(json.loads(json.dumps(config))["arch"])
            assert arch.id == config["arch"]["id"]
            assert arch.to_config() == config["arch"]

    def test_nothing_is_suggested_twice(self, make: Make) -> None:
        searcher = make(ToySpace(4), num_initial=4, refit_every=2)  # 81 architectures: chance would repeat some
        suggested: list[str] = []
        for i in range(60):
            suggested.append(suggest(searcher, f"t{i}")["arch"]["id"])
            if i >= 5:  # five are pending all the time, and every third trial fails
                if i % 3:
                    complete(searcher, f"t{i - 5}", suggested[i - 5].count("a") / 4)
                else:
                    searcher.on_trial_complete(trial_id=f"t{i - 5}", error=True)
        assert len(set(suggested)) == 60

    def test_what_is_pending_counts(self, make: Make) -> None:
        searcher = make()
        configs = [suggest(searcher, f"t{i}") for i in range(TRIALS)]  # far more than the initial design, without any result
        assert len(set(ids(configs))) == TRIALS
        assert list(searcher.history.pending) == ids(configs)
        complete(searcher, "t3", 0.5)
        assert len(searcher.history.pending) == TRIALS - 1
        assert list(searcher.history.observed) == [configs[3]["arch"]["id"]]

    def test_points_to_evaluate_come_first(self, make: Make) -> None:
        space = ToySpace(4)
        first = [space.make("aaaa"), space.make("abca").to_config(), space.make("aaaa")]
        searcher = make(space, points_to_evaluate=first)
        searcher.enqueue([space.make("cccc")])
        configs = [suggest(searcher, f"t{i}") for i in range(5)]
        assert ids(configs)[:3] == ["aaaa", "abca", "cccc"]
        assert len(set(ids(configs))) == 5  # the second "aaaa" is left out
        for wrong in (ToySpace(2).make("aa"), {"word": "abcd"}, {}):
            with pytest.raises(OutOfSpaceError):
                make(space, points_to_evaluate=[wrong])

    @pytest.mark.parametrize("listed", [True, False])
    def test_an_exhausted_space_ends_the_search(self, make: Make, listed: bool) -> None:
        searcher = make(ToySpace(2, listed), num_initial=2, refit_every=2)
        configs = drive(searcher, 8, workers=2)
        last = suggest(searcher, "last")
        assert not searcher.exhausted
        assert sorted([*ids(configs), last["arch"]["id"]]) == sorted("".join(w) for w in product("abc", repeat=2))
        assert searcher.suggest(trial_id="more") == Searcher.FINISHED  # while one is pending
        complete(searcher, "last", 0.5)
        assert searcher.suggest(trial_id="more") == Searcher.FINISHED
        assert searcher.exhausted
        assert not searcher.history.pending

    # -- ends of trials --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "0.9", np.float32("nan"), "missing"])
    def test_a_result_without_a_finite_value_is_a_failure(self, make: Make, value: Any) -> None:
        searcher = make(num_initial=2)
        config = suggest(searcher, "bad")
        result = {"epoch": 8, "done": True} | ({} if value == "missing" else {"valid_accuracy": value})
        searcher.on_trial_result(trial_id="bad", result={"valid_accuracy": 0.5, "epoch": 1})
        searcher.on_trial_result(trial_id="bad", result=result)
        searcher.on_trial_complete(trial_id="bad", result=result)
        assert searcher.history.observed[config["arch"]["id"]].status == "failed"
        assert searcher.history.best() is None
        assert len(set(ids([config, *drive(searcher, 12)]))) == 13

    @pytest.mark.parametrize("result", [None, {}, {"valid_accuracy": 0.99, "epoch": 8}])
    def test_an_error_is_a_failure(self, make: Make, result: dict[str, Any] | None) -> None:
        searcher = make(num_initial=2)
        config = suggest(searcher, "bad")
        searcher.on_trial_result(trial_id="bad", result={"valid_accuracy": 0.5, "epoch": 1})
        searcher.on_trial_complete(trial_id="bad", result=result, error=True)
        assert searcher.history.observed[config["arch"]["id"]].status == "failed"
        assert len(set(ids([config, *drive(searcher, 12)]))) == 13
        assert config["arch"]["id"] not in [arch.id for arch in searcher.history.targets()[0]]

    def test_when_all_fail_the_search_goes_on(self, make: Make) -> None:
        searcher = make(num_initial=2, refit_every=2)
        suggested = []
        for i in range(12):
            suggested.append(suggest(searcher, f"t{i}")["arch"]["id"])
            searcher.on_trial_complete(trial_id=f"t{i}", error=True)
            searcher.engine.wait()
        assert len(set(suggested)) == 12

    def test_a_trial_that_never_ran_may_come_again(self, make: Make) -> None:
        searcher = make(ToySpace(2), num_initial=2)
        config = suggest(searcher, "t0")
        searcher.on_trial_complete(trial_id="t0", result=None)  # stopped while it was pending
        assert len(searcher.history) == 0
        rest = [suggest(searcher, f"u{i}") for i in range(9)]
        assert config["arch"]["id"] in ids(rest)

    @pytest.mark.parametrize(("max_epochs", "status"), [(8, "stopped"), (None, "finished")])
    def test_a_trial_that_was_stopped_while_paused_keeps_its_reports(self, make: Make, max_epochs: int | None, status: str) -> None:
        searcher = make(max_epochs=max_epochs)
        config = suggest(searcher, "t0")
        searcher.on_trial_result(trial_id="t0", result={"valid_accuracy": 0.5, "epoch": 2})
        searcher.on_trial_complete(trial_id="t0", result=None)
        observation = searcher.history.observed[config["arch"]["id"]]
        assert (observation.status, observation.curve) == (status, ((2.0, 0.5),))

    def test_events_of_unknown_or_ended_trials_are_ignored(self, make: Make) -> None:
        searcher = make()
        drive(searcher, 12)
        live = suggest(searcher, "live")
        before = json.dumps(searcher.to_json())
        result = {"valid_accuracy": 0.99, "epoch": 9, "done": True}
        for trial_id in ("never seen", "t1"):  # an unknown one, and one that has ended: a second end, and a report after the end
            searcher.on_trial_result(trial_id=trial_id, result=result)
            searcher.on_trial_complete(trial_id=trial_id, result=result)
            searcher.on_trial_complete(trial_id=trial_id, result=None, error=True)
        assert json.dumps(searcher.to_json()) == before
        complete(searcher, "live", 0.5)
        assert searcher.history.observed[live["arch"]["id"]].value == 0.5

    def test_trials_that_a_scheduler_stops(self, make: Make) -> None:
        searcher = make(max_epochs=8, num_initial=4, refit_every=2)
        configs = []
        for i in range(16):
            configs.append(suggest(searcher, f"t{i}"))
            for epoch in (1, 2, 4):
                searcher.on_trial_result(trial_id=f"t{i}", result={"valid_accuracy": 0.1 * epoch, "epoch": epoch})
                if i % 2 and epoch == 2:
                    break
            complete(searcher, f"t{i}", 0.2 if i % 2 else 0.8, epoch=2 if i % 2 else 8)  # the last report comes once more, with the end
        observed = [searcher.history.observed[id] for id in ids(configs)]
        assert [o.status for o in observed] == ["finished", "stopped"] * 8
        assert observed[1].curve == ((1.0, 0.1), (2.0, 0.2))
        assert observed[0].curve == ((1.0, 0.1), (2.0, 0.2), (4.0, 0.4), (8.0, 0.8))
        assert len(set(ids(configs))) == 16
        assert searcher.history.targets()[1].tolist() == pytest.approx([0.8] * 16)  # 0.2 and the median gain of 0.6

    def test_a_metric_may_be_minimised(self, make: Make) -> None:
        searcher = make(ToySpace(4), metric="loss", mode="min", num_initial=4, refit_every=2)
        losses = {}
        for i in range(20):
            word = suggest(searcher, f"t{i}")["arch"]["id"]
            losses[word] = 1.0 - word.count("a") / 4
            searcher.on_trial_complete(trial_id=f"t{i}", result={"loss": losses[word], "valid_accuracy": 0.0, "epoch": 1})
            searcher.engine.wait()
        best = searcher.history.best()
        assert best is not None
        assert -best.value == min(losses.values()) == losses[best.arch.id]
        archs, values = searcher.history.targets()
        assert values.tolist() == [-losses[arch.id] for arch in archs]
        for refit in searcher.refits:
            assert refit.mae is None or refit.mae < 1.5  # predictions have the sign of the metric as it is learned

    # -- Tune's other calls ----------------------------------------------------------------------------------------------

    def test_metric_and_mode_come_from_either_side(self, make: Make) -> None:
        searcher = make()
        assert (searcher.metric, searcher.mode) == ("valid_accuracy", "max")
        assert searcher.set_search_properties(metric="loss", mode="min", config={"space": "x"}, num_samples=3)
        assert (searcher.metric, searcher.mode) == ("loss", "min")
        assert searcher.set_search_properties(metric=None, mode=None, config={})
        assert (searcher.metric, searcher.mode) == ("loss", "min")
        restored = make()
        restored.load_json(searcher.to_json())  # Tune does not pass them again when it restores
        assert (restored.metric, restored.mode) == ("loss", "min")
        explicit = make(metric="top1", mode="max")
        for metric, mode, taken in [(None, None, True), ("top1", "max", True), ("top1", None, True), ("loss", "max", False)]:
            assert explicit.set_search_properties(metric=metric, mode=mode, config={}) is taken
            assert (explicit.metric, explicit.mode) == ("top1", "max")
        assert not explicit.set_search_properties(metric="top1", mode="min", config={})

    def test_a_result_from_elsewhere_for_a_live_or_ended_trial(self, make: Make) -> None:
        searcher = make(num_initial=2, refit_every=2)
        configs = drive(searcher, 12)
        live = suggest(searcher, "live")
        for config in (live, *configs):  # the same architectures again, whatever the model expected of them
            searcher.add_evaluated_point(parameters=config, value=0.123)
        complete(searcher, "live", 0.9)
        assert searcher.history.observed[live["arch"]["id"]].value == 0.123
        assert searcher.history.observed[configs[0]["arch"]["id"]].value == accuracy(configs[0])
        assert len(set(ids([live, *configs, *drive(searcher, 6, prefix="later")]))) == 19

    def test_tune_does_not_take_it_for_a_wrapper(self, make: Make) -> None:
        assert not hasattr(make(), "searcher")  # Ray looks for that name

    # -- the method fails ------------------------------------------------------------------------------------------------

    def test_a_method_that_fails_is_replaced_by_random_search(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        searcher = make(num_initial=2, refit_every=2)

        def propose(*_: Any) -> Any:
            raise RuntimeError("the model is broken")

        for method in ("propose", "stopgap"):
            monkeypatch.setattr(type(searcher.engine.method), method, propose)
        with caplog.at_level(logging.ERROR):
            assert len(set(ids(drive(searcher, 12)))) == 12
        assert f"{type(searcher.engine.method).__name__} failed to propose; random architectures are suggested instead" in caplog.text
        assert "the model is broken" in caplog.text

    # -- reproducibility and state ---------------------------------------------------------------------------------------

    def test_what_it_recommends_was_evaluated(self, make: Make) -> None:
        searcher = make()
        assert searcher.recommend() is None
        suggest(searcher, "t")
        searcher.on_trial_complete(trial_id="t", error=True)
        assert searcher.recommend() is None
        drive(searcher, 14)
        recommended = searcher.recommend()
        assert recommended is not None
        assert searcher.history.observed[recommended.id].status == "finished"

    def test_the_seed_decides(self, make: Make) -> None:
        first, again, other = (ids(drive(make(seed=seed))) for seed in (1, 1, 2))
        assert first == again
        assert not set(first) & set(other[:10])

    def test_save_and_restore_with_live_trials(self, make: Make, tmp_path: Path) -> None:
        searcher, restored = make(seed=1), make(seed=2)
        configs = drive(searcher)
        live = [suggest(searcher, f"live{i}") for i in range(2)]
        searcher.on_trial_result(trial_id="live0", result={"valid_accuracy": 0.25, "epoch": 1})
        searcher.save(checkpoint_path=str(tmp_path / "state"))
        restored.restore(checkpoint_path=str(tmp_path / "state"))
        assert list(tmp_path.iterdir()) == [tmp_path / "state"]  # nothing temporary is left
        assert restored.to_json() == searcher.to_json()
        following = []
        for each in (searcher, restored):
            complete(each, "live0", 0.75)
            following.append(ids([suggest(each, f"n{i}") for i in range(4)]) + ids(drive(each, 14, prefix="m")))
        assert following[0] == following[1]
        assert not set(following[1]) & set(ids(configs + live))
        assert restored.history.observed[live[0]["arch"]["id"]].curve == ((1.0, 0.25), (8.0, 0.75))
        assert live[1]["arch"]["id"] in restored.history.pending

    def test_the_best_of_a_prior_come_first_and_do_not_count_as_known(self, make: Make, tmp_path: Path) -> None:
        space = ToySpace(4)
        searcher, restored = (make(space, num_initial=4, refit_every=2) for _ in range(2))
        words = ["aaaa", "aaab", "aabb", "abbb", "bbbb"]
        told = [searcher.engine.observation(space.make(w), {"valid_accuracy": w.count("a") / 9}) for w in words]
        assert searcher.tell_prior(told) == len(words)
        assert len(searcher.history) == 0
        configs = drive(searcher, 12)
        assert ids(configs)[0] == "aaaa"
        assert ids(configs)[2] in words
        assert len(set(ids(configs))) == 12
        assert searcher.engine.problem is None
        searcher.save(checkpoint_path=str(tmp_path / "state"))
        restored.restore(checkpoint_path=str(tmp_path / "state"))
        assert ids(drive(restored, 6, prefix="m")) == ids(drive(searcher, 6, prefix="m"))

    def test_the_state_is_a_snapshot(self, make: Make) -> None:
        searcher = make()
        drive(searcher, 12)
        suggest(searcher, "live")
        state = searcher.to_json()
        before = json.dumps(state)
        suggest(searcher, "another")
        complete(searcher, "live", 0.5)
        assert json.dumps(state) == before

    def test_it_can_be_pickled(self, make: Make) -> None:
        searcher = make()  # Tune pickles it before the run
        drive(searcher, 12)
        suggest(searcher, "live")
        copied = cloudpickle.loads(cloudpickle.dumps(searcher))
        for each in (searcher, copied):
            complete(each, "live", 0.5)
        assert ids(drive(copied, prefix="n")) == ids(drive(searcher, prefix="n"))

    @pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
    def test_a_broken_restore_is_loud(self, make: Make, tmp_path: Path, damage: Callable[[dict[str, Any]], Any]) -> None:
        path, searcher = tmp_path / "state", make()
        drive(searcher, 12)
        content = damage(searcher.to_json())
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        restored = make()
        with pytest.raises(ResumeError) as caught:
            restored.restore(checkpoint_path=str(path))
        assert "\n" not in str(caught.value)
        for i in range(2):  # Tune goes on with a new experiment of one trial; it must not look like a success
            with pytest.raises(ResumeError):
                restored.suggest(trial_id=f"t{i}")
        assert searcher.suggest(trial_id="t99") != Searcher.FINISHED
