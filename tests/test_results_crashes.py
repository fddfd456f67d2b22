"""The Parquet store: what was flushed is there exactly once, whatever happens to the writer."""

import contextlib
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
from run_rows import add, keys, report, started, tree, trial

from raynas import results, storage
from raynas.errors import ResultsError
from raynas.results import Part, read
from raynas.run import store as store_module
from raynas.run.store import RunStore


class Killed(BaseException):
    """Stands for SIGKILL: nothing in raynas catches it."""


class DyingFileSystem:
    """A filesystem whose process is killed before the operation number `lifetime`, counted over everything that changes files."""

    def __init__(self, fs: pafs.FileSystem, lifetime: int) -> None:
        self._fs = fs
        self._left = lifetime

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fs, name)
        return self._mortal(method) if name in {"open_output_stream", "move", "delete_file"} else method

    def _mortal(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._left == 0:
                raise Killed
            self._left -= 1
            return method(*args, **kwargs)

        return call


@pytest.mark.parametrize("kind", ["path", "memory"])
def test_a_kill_between_any_two_operations_loses_and_doubles_nothing(tmp_path: Path, kind: str) -> None:
    for lifetime in range(100):
        uri = str(tmp_path / str(lifetime)) if kind == "path" else f"memory://{uuid.uuid4().hex}/run"
        store = RunStore(uri)
        add(store, 0)
        store.close()
        for turn in (1, 2, 3):
            add(store, turn)
            store.add_started(started(8, checkpoint=f"c{turn}"))
            store.add_trial(trial(9, wall_seconds=float(turn)))
            store.flush()
        expected = read(uri)
        store.fs = DyingFileSystem(store.fs, lifetime)
        try:
            store.compact()
            survived = True
        except Killed:
            survived = False
        assert read(uri) == expected
        resumed = RunStore(uri)
        resumed.close()
        assert read(uri) == expected
        if kind == "path":
            assert len(tree(Path(uri))) == 3  # the two tables, and the part with the trial under way
        if survived:
            break
    assert survived
    assert lifetime == 18  # three files written and renamed, twelve parts deleted


def test_a_kill_while_levels_are_merged_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FAN_IN", 3)
    for lifetime in range(100):
        uri = str(tmp_path / str(lifetime))
        store = RunStore(uri)
        fs = store.fs
        try:
            for turn in range(9):
                add(store, turn)
                store.add_report(report(8, 1, wall_seconds=float(turn)))
                store.add_started(started(8, checkpoint=f"c{turn}"))
                store.add_trial(trial(9, wall_seconds=float(turn)))
                store.fs = fs
                store.flush()
                expected = read(uri)
                store.fs = DyingFileSystem(fs, lifetime if turn >= 5 else 1000)  # at 5 levels one and none, at 8 all three
                store.merge_levels()
                assert read(uri) == expected
            break
        except Killed:
            assert read(uri) == expected
            resumed = RunStore(uri)
            resumed.merge_levels()
            assert read(uri) == expected
            resumed.close()
            assert read(uri) == expected
    assert turn == 8
    assert lifetime > 20


def test_a_kill_during_a_flush_leaves_no_trial_without_its_reports(tmp_path: Path) -> None:
    seen = []
    for lifetime in range(7):
        uri = str(tmp_path / str(lifetime))
        storage.write_json(uri, "config.json", {})
        store = RunStore(uri)
        add(store, 0)
        store.fs = DyingFileSystem(store.fs, lifetime)
        try:
            store.flush()
        except Killed:
            assert lifetime < 6
        trials, reports, under_way = keys(uri)
        seen.append((len(trials), len(reports), len(under_way)))
    assert seen == [(0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 2, 1), (0, 2, 1), (1, 2, 0)]


WRITER = """
import sys
from datetime import UTC, datetime
from raynas.run import store as module
uri, first, acknowledged = sys.argv[1], int(sys.argv[2]), sys.argv[3]
module.FAN_IN = 7
store = module.RunStore(uri)
with open(acknowledged, "a", buffering=1) as log:
    for order in range(first, 1_000_000):
        now = datetime.now(UTC)
        row = {"order": order, "trial_id": f"t{order}", "arch_id": "a", "arch": "{}", "started_at": now}
        store.add_started(row)
        for epoch in (1, 2):
            store.add_report({"trial_id": f"t{order}", "epoch": epoch})
        store.add_trial(row | {"status": "finished", "ended_at": now})
        store.flush()
        store.merge_levels()
        log.write(f"{order}\\n")
"""


def acknowledged_in(log: Path) -> list[int]:
    """The trials that a writer has flushed; the last line may be half written."""
    return [int(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")] if log.exists() else []


def check_snapshot(uri: str, acknowledged: list[int]) -> None:
    """Every trial and report once, every acknowledged trial there, no trial without its reports."""
    trials, reports, _ = keys(uri)
    assert len(set(trials)) == len(trials)
    assert len(set(reports)) == len(reports)
    assert {f"t{order}" for order in acknowledged} <= set(trials)
    assert {(name, epoch) for name in trials for epoch in (1, 2)} <= set(reports)


@pytest.mark.slow
def test_a_writer_killed_at_random_moments_loses_nothing_that_it_flushed(tmp_path: Path) -> None:
    uri, log = str(tmp_path / "run"), tmp_path / "log"
    rng = np.random.default_rng(0)
    storage.write_json(uri, "config.json", {})
    snapshots = 0
    for _ in range(6):
        before = acknowledged_in(log)
        first = max(before, default=-1) + 1
        writer = subprocess.Popen([sys.executable, "-c", WRITER, uri, str(first), str(log)])
        try:
            deadline = None
            while deadline is None or time.monotonic() < deadline:
                acknowledged = acknowledged_in(log)
                check_snapshot(uri, acknowledged)
                snapshots += 1
                if deadline is None and len(acknowledged) > len(before):
                    deadline = time.monotonic() + rng.uniform(0.05, 0.4)
                assert writer.poll() is None
        finally:
            writer.kill()
            assert writer.wait() == -signal.SIGKILL
        check_snapshot(uri, acknowledged_in(log))
    acknowledged = acknowledged_in(log)
    assert len(acknowledged) > 20
    assert snapshots > 20
    RunStore(uri).close()
    check_snapshot(uri, acknowledged)
    assert {"trials.parquet", "reports.parquet"} <= {path.name for path in Path(uri).iterdir()}
    assert not list(Path(uri).rglob(".tmp-*"))


def test_a_part_that_disappears_while_reading_is_found_again_in_the_merged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(str(tmp_path))
    add(store, 0)
    store.flush()
    list_parts, listings = results.list_parts, []

    def list_then_merge(fs: Any, root: str) -> list[str]:
        listings.append(list_parts(fs, root))
        if len(listings) == 1:
            monkeypatch.setattr(results, "list_parts", list_parts)
            store.close()
            monkeypatch.setattr(results, "list_parts", list_then_merge)
        return listings[-1]

    monkeypatch.setattr(results, "list_parts", list_then_merge)
    assert keys(str(tmp_path)) == (["t0"], [("t0", 1), ("t0", 2)], [])
    assert [len(parts) for parts in listings] == [3, 0, 0]  # a second look follows each that was read


@pytest.mark.parametrize("call", [1, 2])
def test_a_merge_between_the_reads_of_the_merged_files_shows_no_trial_without_its_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    merged = results._merged
    for lifetime in range(8):
        uri = str(tmp_path / str(lifetime))
        store = RunStore(uri)
        add(store, 0)
        store.close()
        calls: list[str] = []

        def merge_then_read(fs: Any, root: str, kind: str, store: RunStore = store, calls: list[str] = calls, left: int = lifetime) -> Any:
            calls.append(kind)
            if len(calls) == call:
                monkeypatch.setattr(results, "_merged", merged)
                add(store, 1)  # after the reader has listed the parts
                store.flush()
                store.fs = DyingFileSystem(store.fs, left)
                with contextlib.suppress(Killed):
                    store.compact()
                monkeypatch.setattr(results, "_merged", merge_then_read)
            return merged(fs, root, kind)

        monkeypatch.setattr(results, "_merged", merge_then_read)
        check_snapshot(uri, [0])
        assert len(calls) == 2


def test_a_folder_that_never_holds_still_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunStore(str(tmp_path)).close()
    monkeypatch.setattr(results, "list_parts", lambda fs, root: [Part("trials", 1, 0, f"{root}/parts/gone")])
    with pytest.raises(ResultsError, match=r"^\S+ changes faster than it can be read; try again$"):
        read(str(tmp_path))


def test_foreign_and_temporary_files_are_ignored(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    add(store, 0)
    store.flush()
    for name in (".tmp-0123", "parts/.tmp-4567", "parts/notes.txt", "parts/trials.parquet", "parts/trials-1-x.parquet"):
        (tmp_path / name).write_bytes(b"not Parquet")
    assert keys(str(tmp_path))[0] == ["t0"]
    RunStore(str(tmp_path)).close()
    assert not (tmp_path / "parts" / ".tmp-4567").exists()
    assert (tmp_path / "parts" / "notes.txt").exists()
    assert keys(str(tmp_path))[0] == ["t0"]
