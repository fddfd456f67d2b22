"""Faults of every kind in real searches: what was complete stays, every asked architecture is evaluated once, and no process is left."""

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asha_rungs import SCRIPT, shown_rungs
from processes import marked

from raynas import results

ROOT = Path(__file__).resolve().parents[1]
TRIALS = 14
SEARCH = ["--trainable", "soak:SoakTrial", "--set", "trainable_options.seconds=0.15", "--max-epochs", "9", "--trials", str(TRIALS)]
SEARCH += ["--scheduler", "asha", "--concurrency", "2", "--cpus-per-trial", "0.5"]
SEARCH += ["--set", "searcher_options.num_initial=4", "--out", "run"]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a search in a folder; at the end no process of any may be left."""
    mark = ("RAYNAS_DRILL", str(tmp_path))
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])

    def started(*arguments: object) -> "subprocess.Popen[str]":
        environment = os.environ | dict([mark]) | {"PYTHONPATH": path}
        command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    yield started
    deadline = time.monotonic() + 20
    while (left := marked(*mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        process.kill()
    assert not left


def ended(run: Path) -> dict[str, dict[str, Any]]:
    """The rows of trials that have ended, by trial id; none before the run begins."""
    return {row["trial_id"]: row for row in results.read(str(run)).trials.to_pylist()} if (run / "config.json").exists() else {}


def wait_for(run: Path, count: int, process: "subprocess.Popen[str]") -> dict[str, dict[str, Any]]:
    """Those rows, once there are `count`."""
    deadline = time.monotonic() + 120
    while len(rows := ended(run)) < count:
        assert time.monotonic() < deadline, "nothing happens"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return rows


def judged(run: Path, *before: dict[str, dict[str, Any]]) -> None:
    """The asked number of different architectures, and nothing lost or changed of what was seen before."""
    rows = ended(run)
    assert len(rows) == len({row["arch_id"] for row in rows.values()}) == TRIALS
    assert {row["status"] for row in rows.values()} <= {"finished", "stopped"}
    for seen in before:
        assert {name: rows.get(name) for name in seen} == seen


@pytest.mark.slow
def test_disturbances_of_every_kind_lose_nothing(tmp_path: Path) -> None:
    """Driver, trial process and node are killed, and an S3 server refuses and hangs."""
    command = [sys.executable, ROOT / "benchmarks" / "soak.py", "--minutes", "1", "--nodes", "2", "--every", "6", "--seed", "11"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.stdout.endswith("nothing was lost\n"), done.stdout + done.stderr[-3000:]
    assert done.returncode == 0
    told = next(line for line in done.stdout.splitlines() if line.startswith("disturbances: "))
    assert all(f"'{kind}': " in told for kind in ("driver", "actor", "node", "refuse", "hang"))


@pytest.mark.slow
@pytest.mark.parametrize("kills", [0, 2])
def test_rungs_hold_what_was_reported_whether_the_driver_was_killed_or_not(
    kills: int, tmp_path: Path, begin: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """Compared with the run's own reports: those of another run differ even if nothing disturbs it, as what is proposed, and what a rung
    stops, depends on the order in which trials report, which is asynchronous.
    """
    run, seen = tmp_path / "run", []
    process = begin("--searcher", "bananas", *SEARCH)
    for kill in range(kills):
        seen.append(wait_for(run, 4 * (kill + 1), process))
        process.kill()
        process.communicate()
        process = begin("--resume", "run")
    printed, _ = process.communicate(timeout=180)
    assert process.returncode == 0, printed
    judged(run, *seen)
    rungs = shown_rungs(printed)
    reported: dict[int, list[float]] = defaultdict(list)
    for row in results.read(str(run)).reports.to_pylist():
        reported[row["epoch"]].append(row["valid_accuracy"])
    assert rungs.keys() >= {"1", "3"}
    assert rungs == {rung: sorted(reported[int(rung)]) for rung in rungs}


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a file system that fills up")
def test_a_disk_that_fills_up_holds_the_search_until_there_is_room(tmp_path: Path, begin: Callable[..., "subprocess.Popen[str]"]) -> None:
    run, filler = tmp_path / "run", tmp_path / "run" / "filler"
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(run)], check=True)
    try:
        process = begin("--searcher", "random", *SEARCH)
        seen = wait_for(run, 3, process)
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(8_000_000))
        time.sleep(12)
        assert process.poll() is None
        seen |= ended(run)
        filler.unlink()
        printed, _ = process.communicate(timeout=180)
        assert process.returncode == 0, printed
        judged(run, seen)
    finally:
        subprocess.run(["umount", "--lazy", str(run)], check=True)
