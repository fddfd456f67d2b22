"""What `raynas.status` tells of a run, from rows whose answers are known."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from run_rows import NOW, report, started, trial

from raynas import status as module
from raynas.cli import BAD_USAGE, DONE
from raynas.config import RunConfig
from raynas.run.lock import Holder
from raynas.run.store import RunStore
from raynas.status import main, read_status
from raynas.storage import write_json

HOUR = timedelta(hours=1)
WRITER = Holder("here", 7, (NOW - HOUR).isoformat())


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Four trials of ten have ended, one is under way; each ran on two GPUs for half an hour, of which its reports tell."""
    uri = str(tmp_path / "run")
    config = RunConfig(trials=10, gpus_per_trial=2.0, scheduler="asha", objective=["-latency"])
    write_json(uri, "config.json", {"config": config.model_dump()})
    write_json(uri, "best.json", {"trial_id": "t1"})
    store = RunStore(uri)
    ends = [{"status": "stopped", "epochs": 1}, {"latency": 2.5, "fault": "timeout", "retries": 1}, {"status": "stopped", "epochs": 3}]
    ends.append({"status": "failed", "fault": "machine", "retries": 3, "epochs": 2})
    for order, end in enumerate(ends):
        last = 9 if "status" not in end else end["epochs"]
        for epoch in range(1, last + 1):
            store.add_report(report(order, epoch, wall_seconds=1800.0 * epoch / last))
        at = {"started_at": NOW - HOUR, "ended_at": NOW + order * HOUR, "node": f"n{order % 2}", "device": "cuda:0"}
        store.add_trial(trial(order, **(at | end)))
    store.add_started(started(4, started_at=NOW + 3 * HOUR))
    store.close()
    return uri


def held(monkeypatch: pytest.MonkeyPatch, *writers: Holder | None) -> None:
    """Who writes the run at each look; the last one at all further ones."""
    left = list(writers)
    monkeypatch.setattr(module, "holder", lambda uri: left.pop(0) if len(left) > 1 else left[0])


def test_a_run_that_lives(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held(monkeypatch, WRITER)
    found = read_status(run, now=NOW + 4 * HOUR)
    assert (found.state, found.holder, found.trials) == ("running", WRITER, 10)
    assert found.counts == {"finished": 1, "stopped": 2, "failed": 1, "running": 1}
    assert found.best is not None
    assert (found.best["trial_id"], found.best["latency"], found.best["after"]) == ("t1", 2.5, 1)
    assert found.rungs == {1: (4, 1), 3: (2, 1)}
    assert (found.failures, found.retries) == ({"machine": 1}, {"machine": 3, "timeout": 1})
    assert found.per_hour == 0.75  # three after the first one, in four hours
    assert found.expected_end == NOW + 4 * HOUR + 8 * HOUR
    assert (found.unit, found.hours) == ("GPU", 2 * (4 * 0.5 + 1.0))
    assert found.nodes == {"n0, cuda:0": 2, "n1, cuda:0": 2}


def test_a_run_that_nobody_writes(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held(monkeypatch, None)
    found = read_status(run, now=NOW + 4 * HOUR)
    assert (found.state, found.counts["running"], found.expected_end, found.hours) == ("interrupted", 0, None, 4.0)
    held(monkeypatch, Holder("here", 7, None, alive=False))
    assert (read_status(run).state, read_status(run).counts["running"]) == ("crashed", 0)
    write_json(run, "config.json", {"config": {"trials": 4}})
    assert read_status(run).state == "complete"


def test_a_one_shot_run_trains_what_its_searches_found(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held(monkeypatch, None)
    searches = [{"status": "finished", "arch": {"id": name}} for name in "aab"]
    write_json(run, "oneshot.json", [*searches, {"status": "running", "arch": None}])
    assert read_status(run).trials == 10
    write_json(run, "oneshot.json", [*searches, {"status": "failed", "arch": None}])
    assert read_status(run).trials == 2


def test_what_a_person_reads(run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    held(monkeypatch, WRITER, None)
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.0)
    assert main([run, "--watch", "--price", "0.5"]) == DONE
    first, second = capsys.readouterr().out.split(f"{run}: ")[1:]
    assert first.startswith("running, process 7 on here since ")
    assert second.startswith("interrupted\n")
    assert f"python -m raynas.search --resume {run}" in second
    told = dict(line.strip().split(maxsplit=1) for line in first.splitlines()[1:])
    assert told["trials"] == "4 of 10 (1 finished, 2 stopped early, 1 failed, 1 running)"
    assert (told["failures"], told["retries"]) == ("1 by machine", "1 by timeout, 3 by machine")
    assert told["best"] == "latency 2.5, after 2 trials: a1"
    assert told["rungs"] == "4 came to 1 epochs (1 ended there), 2 came to 3 epochs (1 ended there)"


def test_json_is_one_line_a_look(run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    held(monkeypatch, WRITER)
    assert main([run, "--json"]) == DONE
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["state"], told["rungs"]["3"], told["holder"]["pid"]) == ("running", [2, 1], 7)
    assert datetime.fromisoformat(told["expected_end"]) > datetime.now(UTC)


def test_mistakes_are_one_line(tmp_path: Path, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == BAD_USAGE
    assert capsys.readouterr().err.startswith("error: ")
    for name, value in (("best.json", [1]), ("oneshot.json", [1]), ("oneshot.json", {"a": 1}), ("config.json", {"config": {"arch": "x"}})):
        write_json(run, name, value)
        assert main([run]) == BAD_USAGE
        assert capsys.readouterr().err.count("\n") == 1
        write_json(run, "best.json", {})
    with pytest.raises(SystemExit) as ended:
        main([run, "--price", "much"])
    assert ended.value.code == BAD_USAGE
    assert "'much' is not a number from 0" in capsys.readouterr().err
