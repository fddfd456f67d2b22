"""One writer a run folder: who comes second is told who was first, and who has died is taken over."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import until

from raynas.errors import ResultsError, RunLost
from raynas.run import lock as module
from raynas.run.lock import Lock

HOLDER = """
import sys, time
from raynas.run.lock import Lock
with Lock(sys.argv[1], "again"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["path", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"path": str(tmp_path / "run"), "memory": f"memory://{uuid.uuid4().hex}/run"}[request.param]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "DEAD_AFTER", 1.0)


def locks(folder: Path) -> list[str]:
    return sorted(path.name.rpartition(".")[2] for path in folder.glob(".lock-*"))


def elsewhere(folder: Path) -> None:
    """Makes the claim in a folder one of another machine."""
    (claim,) = folder.glob(".lock-*.json")
    claim.write_text(json.dumps(json.loads(claim.read_text()) | {"host": "elsewhere", "pid": 1}))


def test_the_second_is_told_who_is_first(uri: str) -> None:
    with Lock(uri, "again") as held:
        who = rf"host {module.socket.gethostname()}, pid {os.getpid()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00"
        message = rf"^\S+ is being written by another process: {who}; wait for its end, or choose another --out \(.* 60 s .*\)$"
        with pytest.raises(ResultsError, match=message), Lock(uri, "again"):
            pass
        held.check()
    with Lock(uri, "again"):
        pass


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with Lock(str(tmp_path / "run"), "again"):
        assert locks(tmp_path / "run") == ["beat", "json"]
    assert not (tmp_path / "run").exists()  # a folder that was made for nothing
    (tmp_path / "mine").mkdir()
    with Lock(str(tmp_path / "mine"), "again"):
        pass
    assert list((tmp_path / "mine").iterdir()) == []


def test_of_many_that_race_one_at_most_holds_at_a_time(uri: str) -> None:
    holding, most, held = 0, 0, []
    start, mutex = threading.Barrier(4), threading.Lock()

    def contend(name: int) -> None:
        nonlocal holding, most
        start.wait()
        with suppress(ResultsError), Lock(uri, "again"):
            with mutex:
                holding += 1
                most = max(most, holding)
                held.append(name)
            time.sleep(0.2)
            with mutex:
                holding -= 1

    threads = [threading.Thread(target=contend, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert held


def test_a_process_of_this_machine_that_was_killed_is_taken_over_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = str(tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, uri], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ResultsError, match=f"pid {holder.pid},"), Lock(uri, "again"):
            pass
        holder.kill()
        until(lambda: Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")  # nobody has waited for it yet
        with caplog.at_level(logging.INFO), Lock(uri, "again"):
            assert locks(tmp_path / "run") == ["beat", "json"]
        holder.wait()
    assert f"was left by a process that is gone (host {module.socket.gethostname()}, pid {holder.pid})" in caplog.text


def test_another_process_under_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    mine = Lock(str(tmp_path), "again")
    assert mine._claim() is None  # and no sign of life but this one
    (claim,) = tmp_path.glob(".lock-*.json")
    claim.write_text(json.dumps(json.loads(claim.read_text()) | {"begun": 12345}))
    with Lock(str(tmp_path), "again"):
        assert not claim.exists()


def test_a_dead_one_elsewhere_is_taken_over_after_a_while(tmp_path: Path, quick: None) -> None:
    dead = Lock(str(tmp_path), "again")
    assert dead._claim() is None
    elsewhere(tmp_path)
    with pytest.raises(ResultsError, match="host elsewhere, pid 1, since"), Lock(str(tmp_path), "again"):
        pass
    time.sleep(1.1)
    with Lock(str(tmp_path), "again"):
        assert locks(tmp_path) == ["beat", "json"]


def test_a_live_one_elsewhere_is_not(tmp_path: Path, quick: None) -> None:
    with Lock(str(tmp_path), "again") as held:
        elsewhere(tmp_path)
        time.sleep(1.2)
        with pytest.raises(ResultsError, match="host elsewhere"), Lock(str(tmp_path), "again"):
            pass
        held.check()


def test_who_was_taken_over_is_told_and_does_not_take_it_back(tmp_path: Path, quick: None) -> None:
    with Lock(str(tmp_path), "raynas again") as held:
        held.check()
        (claim,) = tmp_path.glob(".lock-*.json")
        claim.unlink()
        until(lambda: held._lost)
        with pytest.raises(RunLost, match=r"was taken over by another process, .* go on with: raynas again$"):
            held.check()
        until(lambda: locks(tmp_path) == [])


def test_a_damaged_claim_counts_until_it_is_old(tmp_path: Path) -> None:
    (tmp_path / ".lock-0123.json").write_text("[")
    (tmp_path / ".lock-0123.beat").touch()
    (tmp_path / ".lock-4567.beat").touch()  # of one that was taken over
    with pytest.raises(ResultsError, match="host None, pid None"), Lock(str(tmp_path), "again"):
        pass
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    with Lock(str(tmp_path), "again"):
        assert not (tmp_path / ".lock-0123.json").exists()


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"^cannot create the folder "), Lock(str(tmp_path / "file"), "again"):
        pass


def test_a_claim_whose_time_lies_far_ahead_is_dead(tmp_path: Path) -> None:
    dead = Lock(str(tmp_path), "again")
    assert dead._claim() is None
    elsewhere(tmp_path)
    ahead = time.time() + 1000
    for file in tmp_path.glob(".lock-*"):
        os.utime(file, (ahead, ahead))
    with Lock(str(tmp_path), "again"):
        assert locks(tmp_path) == ["beat", "json"]


def test_who_has_slept_looks_before_it_writes(tmp_path: Path) -> None:
    lock = Lock(str(tmp_path), "again")
    assert lock._claim() is None
    (claim,) = tmp_path.glob(".lock-*.json")
    claim.unlink()
    lock.check(look=True)  # its last sign of life is a moment old
    lock._beaten -= 100
    lock.check()  # the control loop asks no storage
    with pytest.raises(RunLost, match="was taken over"):
        lock.check(look=True)
