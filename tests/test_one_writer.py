"""Searches and trainings that want the folder of a live run, and a search whose storage goes away: each a process of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from storages import s3_server
from stranger import ARCH
from waiting import until

from raynas import results, storage

TESTS = Path(__file__).parent
SLOW = ["--trainable", "own_trials:Slow", "--searcher", "random"]
TRAINING = ["--arch", ARCH, "--dataset", "digits", "--recipe", "quick", "--device", "cpu"]
QUICK = ["--searcher", "random", "--trials", "25", "--concurrency", "1"]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]), "OWN_TRIALS_LOG": os.devnull}


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=os.environ | ENVIRONMENT, text=True, **pipes)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    printed, errors = process.communicate(timeout=180)
    return process.returncode, printed, errors


def check_refused(intruders: list[subprocess.Popen[str]], first: subprocess.Popen[str]) -> None:
    """Each is told in a line who holds the folder."""
    for intruder in intruders:
        code, printed, errors = ended(intruder)
        assert (code, printed, errors.count("\n")) == (2, "", 1)
        assert errors.startswith("error: run is being written by another process: host ")
        assert f", pid {first.pid}, since 20" in errors


def test_a_live_run_is_left_alone_and_a_killed_one_taken_over(tmp_path: Path) -> None:
    first = started(tmp_path, "-m", "raynas.search", *SLOW, "--trials", "500", "--out", "run")
    try:
        until(lambda: list(tmp_path.glob("run/parts/trials-*.parquet")), 120)
        intruders = [
            started(tmp_path, "-m", "raynas.search", *QUICK, "--out", "run"),
            started(tmp_path, "-m", "raynas.search", "--resume", "run"),
            started(tmp_path, "-m", "raynas.train", "--arch", "DARTS_V2", "--out", "run"),
        ]
        check_refused(intruders, first)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=60)
    known = results.read(str(tmp_path / "run"))
    code, _, errors = ended(started(tmp_path, "-m", "raynas.search", "--resume", "run", "--trials", str(len(known.trials) + 4)))
    assert code == 0, errors
    tables = results.read(str(tmp_path / "run"))
    assert len(tables.trials) == len(set(tables.trials["arch_id"].to_pylist())) == len(known.trials) + 4
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_a_live_training_is_left_alone_and_a_killed_one_taken_over(tmp_path: Path) -> None:
    command = ["-m", "raynas.train", *TRAINING, "--epochs", "3000", "--out", "run"]
    first = started(tmp_path, *command)
    try:
        until((tmp_path / "run" / "checkpoint.pt").exists, 120)
        check_refused([started(tmp_path, *command), started(tmp_path, "-m", "raynas.train", "--resume", "run")], first)
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=60)
    again = started(tmp_path, "-m", "raynas.train", "--resume", "run")
    try:
        assert again.stdout is not None
        assert next(int(epoch[1]) for line in again.stdout if (epoch := re.match(r"epoch +(\d+)/", line))) > 1
    finally:
        again.send_signal(signal.SIGKILL)
        again.communicate(timeout=60)


def test_of_two_searches_that_race_one_runs(tmp_path: Path) -> None:
    both = [started(tmp_path, "-m", "raynas.search", *QUICK, "--out", "run") for _ in range(2)]
    (code, printed, _), (refused, silent, errors) = sorted(map(ended, both))
    assert (code, refused, errors.count("\n")) == (0, 2, 1)
    assert silent in ("", printed.splitlines(keepends=True)[0])  # what it was about to do
    assert "25/25 trials" in printed
    assert "is being written by another process" in errors or "already holds a run" in errors
    rows = results.read(str(tmp_path / "run")).trials
    assert len(rows) == len(set(rows["arch_id"].to_pylist())) == 25


LOSING = """
import sys
from raynas import search
from raynas.run import writer
writer.TROUBLE, writer.GIVE_UP = 1.0, 4.0
if __name__ == "__main__":
    sys.exit(search.main(sys.argv[1:]))
"""


def test_remote_storage_tells_how_a_search_stands_and_its_loss_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    (tmp_path / "losing.py").write_text(LOSING)
    with s3_server() as options:
        uri = f"s3://bucket/run{options}"
        search = started(tmp_path, "losing.py", *SLOW, "--trials", "500", "--out", uri)
        until(lambda: storage.exists(uri, "config.json") and len(results.read(uri).trials) > 1, 120)
        code, printed, errors = ended(started(tmp_path, "-m", "raynas.status", uri, "--json"))
        assert code == 0, errors
        told = json.loads(printed)
        assert (told["folder"], told["state"], told["holder"]["pid"]) == (uri, "running", search.pid)
        assert told["nodes"] == {f"{socket.gethostname()} (127.0.0.1), cpu": told["counts"]["finished"]}
    code, printed, errors = ended(search)
    assert code == 75, errors
    assert "the storage does not answer: " in printed, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"error: the storage of {uri} has not answered for " in line
    assert line.endswith(f"rows could not be written. Go on with: python -m raynas.search --resume '{uri}'")
    assert "Traceback" not in errors
