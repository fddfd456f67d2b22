"""Which trials are tried again, and which have hung: the rule alone, without Ray and without waiting."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayTaskError

from raynas.config import RunConfig, make_config
from raynas.run.failures import Hung
from raynas.run.retries import Retries

DEAD = ActorUnavailableError("gone", None)


def own(text: str = "ValueError: bad", cause: Exception | None = None) -> RayTaskError:
    return RayTaskError("train", f"ray::train()\n{text}\n", cause or ValueError("bad"))


def trial(name: str = "t", epoch: int | None = 1) -> Any:
    return SimpleNamespace(trial_id=name, last_result={"trial_id": name} | ({} if epoch is None else {"epoch": epoch}))


def test_what_a_machine_does_is_tried_again_after_growing_delays() -> None:
    retries, lost = Retries(3), trial()
    assert [retries.judge(lost, DEAD, False) for _ in range(4)] == [1, 4, 16, None]
    ended = retries.ended(lost)
    assert (ended.blame.fault, ended.retries) == ("machine", 3)
    assert retries.ended(lost).retries == 0
    assert Retries(0).judge(lost, DEAD, False) is None


def test_a_try_that_got_further_begins_to_count_anew() -> None:
    retries, going = Retries(1), trial(epoch=1)
    assert retries.judge(going, DEAD, False) == 1
    going.last_result = {"epoch": 2}
    assert retries.judge(going, DEAD, False) == 1
    assert retries.judge(going, DEAD, False) is None
    going.last_result = {"epoch": 1}  # from the checkpoint of the epoch before
    assert retries.judge(going, DEAD, False) is None
    assert retries.ended(going).retries == 2


def test_storage_that_refuses_for_two_minutes_fails_no_trial() -> None:
    retries, storing = Retries(3), trial()
    refused = own("OSError: no", OSError("When completing multipart upload: AWS Error NETWORK_CONNECTION"))
    delays = [retries.judge(storing, refused, True) for _ in range(7)]
    assert delays[-1] is None
    assert sum(delay for delay in delays if delay is not None) > 120
    assert retries.ended(storing).blame.fault == "machine"
    assert Retries(0).judge(trial(), refused, True) is None


def test_a_node_that_is_taken_away_with_notice_is_no_failure() -> None:
    retries, spot = Retries(0), trial()
    taken = RayActorError(error_msg="its node was preempted", preempted=True)
    assert [retries.judge(spot, taken, False) for _ in range(20)] == [1] * 20
    assert retries.judge(spot, DEAD, False) is None
    assert retries.ended(spot).retries == 20


@pytest.mark.parametrize("most", [0, 1, 3])
def test_what_an_architecture_does_itself_is_tried_again_once_at_most(most: int) -> None:
    for error in (own(), Hung("TimeoutError: no report")):
        retries = Retries(most)
        assert [retries.judge(trial(), error, False) for _ in range(2)] == [1 if most else None, None]


def test_what_fails_before_any_report_for_every_architecture_is_not_tried_again_each_time() -> None:
    retries = Retries(3)
    errors = [own(f"RuntimeError: no memory for arch {number}") for number in range(4)]
    assert [retries.judge(trial("a", None), error, False) for error in errors[:2]] == [1, None]
    assert retries.judge(trial("b", None), errors[2], False) is None
    assert retries.judge(trial("c", None), own("KeyError: 'other'"), False) == 1
    assert retries.judge(trial("d", 4), errors[3], False) == 1  # has reported


def test_what_was_said_of_a_retry(tmp_path: Any) -> None:
    path = tmp_path / "error.txt"
    path.write_text("Failure # 1 (occurred at 2026-11-24_23-14-55)\n1 worker(s) were killed due to the node running low on memory.\n")
    retries, lost = Retries(3), trial()
    lost.error_file = str(path)
    memory = RayActorError(error_msg=f"OutOfMemoryError: {OutOfMemoryError('the node running low on memory')}")
    retries.judge(lost, memory, False)
    assert retries.judge(lost, memory, False) == 4
    line = "trial t lost (machine): OutOfMemoryError: its node ran out of memory; tried again in 4 s (2 of 3)"
    assert retries.recovering("trial t", lost) == line
    retries.judge(lost, RayActorError(preempted=True), False)
    assert retries.recovering("trial t", lost).endswith("; tried again in 1 s")


# Hanging


class Watch:
    """Looks at trials once a step of a clock that does not run by itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.retries, self.now = Retries.of(make_config(settings, RunConfig)), 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def look(self, *running: Any, seconds: float = 1.0) -> list[tuple[str, str]]:
        self.now += seconds
        return [(trial.trial_id, str(error)) for trial, error in self.retries.overdue(running)]


def test_without_limits_nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    assert not any(watch.look(trial(), seconds=1e6) for _ in range(3))


def test_a_trial_that_is_silent_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, quiet, busy = Watch(monkeypatch, stall_timeout=5.0), trial("quiet"), trial("busy")
    for _ in range(6):
        assert not watch.look(quiet, busy)
        watch.retries.report(busy)
    assert watch.look(quiet, busy) == [("quiet", "TimeoutError: no report for 5 s (--stall-timeout)")]
    assert watch.retries.judge(quiet, Hung("no report"), False) == 1
    assert not any(watch.look(quiet, busy) for _ in range(3))  # its next try has all the time again


def test_a_trial_that_takes_too_long_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, endless = Watch(monkeypatch, trial_timeout=5.5), trial()
    for _ in range(6):
        assert not watch.look(endless)
        watch.retries.report(endless)
    assert watch.look(endless) == [("t", "TimeoutError: not done after 5.5 s (--trial-timeout)")]


def test_time_without_a_process_or_while_the_driver_slept_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, paused = Watch(monkeypatch, trial_timeout=50.0), trial()
    assert not watch.look(paused)
    for _ in range(100):
        assert not watch.look()
    assert not watch.look(paused, seconds=1e5)
    assert [bool(watch.look(paused)) for _ in range(45)].index(True) == 40
