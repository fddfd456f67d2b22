"""The thread that writes a run folder: in what order, and what a storage that refuses or hangs does to the rows and to the search."""

import json
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_rows import add, keys, report, started, trial
from storages import s3_server, trouble
from waiting import until

from raynas import results, signals, storage
from raynas.errors import ResultsError, RunLost
from raynas.run import lock
from raynas.run import writer as module
from raynas.run.lock import Lock
from raynas.run.tensorboard import RunSummary
from raynas.run.writer import Writer


@pytest.fixture
def uri() -> str:
    return f"trouble://{uuid.uuid4().hex}/run"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"PERIOD": 0.01, "TROUBLE": 0.3, "FIRST_PAUSE": 0.02, "LONGEST_PAUSE": 0.1}.items():
        monkeypatch.setattr(module, name, seconds)


def nothing() -> None:
    """What is due now and then."""


def checked_until(writer: Writer, holds: Callable[[], Any]) -> None:
    """As the control loop: looks after the writer again and again."""

    def step() -> bool:
        writer.check()
        return bool(holds())

    until(step)


def test_a_batch_is_written_in_the_order_that_a_kill_needs(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 60.0)  # one batch
    writer, written = Writer(uri, print, nothing), []
    put, write_part = writer._store.put, writer._store._write_part
    monkeypatch.setattr(writer._store, "put", lambda name, content: (written.append(name), put(name, content)))
    monkeypatch.setattr(writer._store, "_write_part", lambda kind, table, *_: (written.append((kind, len(table))), write_part(kind, table)))
    writer.add_started(started(7))
    until(lambda: not writer.waiting)
    writer.then(lambda: written.append("then"))
    writer.put_json("best.json", {"of": 1})
    writer.put_json("best.json", {"of": 2})
    writer.add_started(started(1, checkpoint="c1"))
    add(writer, 0)  # type: ignore[arg-type]  # it adds rows as a store does
    writer.add_report(report(1, 1))
    writer.add_started(started(1, checkpoint="c2"))
    writer.add_started(started(2, checkpoint="c2"))
    writer.add_trial(trial(2))
    writer.put("errors/t2.txt", b"why")
    writer.flush()
    assert written == [("started", 1), "errors/t2.txt", ("started", 1), ("reports", 3), ("trials", 2), ("started", 1), "best.json", "then"]
    assert storage.read_json(uri, "best.json") == {"of": 2}
    writer.close()
    assert keys(uri) == (["t0", "t2"], [("t0", 1), ("t0", 2), ("t1", 1)], ["t1", "t7"])
    assert results.read(uri).started["checkpoint"].to_pylist() == ["c2", None]


def test_a_wrong_row_fails_where_it_comes_from(uri: str) -> None:
    writer = Writer(uri, print, nothing)
    with pytest.raises(ResultsError, match="a row of trials lacks arch"):
        writer.add_trial(trial(0, arch=None))
    writer.close()


@pytest.mark.parametrize("kind", ["refuses", "hangs"])
def test_a_storage_in_trouble_for_a_while_holds_up_and_loses_nothing(uri: str, kind: str) -> None:
    said: list[str] = []
    writer = Writer(uri, said.append, nothing)
    with trouble(refuses=kind == "refuses", hangs=kind == "hangs"):
        for order in range(5):
            add(writer, order)  # type: ignore[arg-type]
        checked_until(writer, lambda: said)
        add(writer, 5)  # type: ignore[arg-type]
        writer.check()
        assert keys_on_disk(uri) == []
    checked_until(writer, lambda: len(said) == 2)
    writer.close()
    reason = "cannot write .*: no access to .*" if kind == "refuses" else "no answer"
    assert re.fullmatch(rf"the storage does not answer: {reason}; trying again, \d+ rows wait", said[0])
    assert said[1] == "the storage answers again"
    assert keys(uri) == ([f"t{i}" for i in range(6)], [(f"t{i}", e) for i in range(6) for e in (1, 2)], [])


def keys_on_disk(uri: str) -> list[str]:
    """Names of the parts, past what troubles the storage."""
    fs, root = storage.filesystem(uri)
    return [path for path in fs.handler.fs.store if path.startswith(f"{root}/parts/") and "tmp" not in path]


@pytest.mark.parametrize("kind", ["refuses", "hangs"])
def test_a_storage_in_trouble_for_too_long_ends_the_run(uri: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GIVE_UP", 0.6)
    writer = Writer(uri, lambda text: None, nothing)
    add(writer, 0)  # type: ignore[arg-type]
    writer.flush()
    with trouble(refuses=kind == "refuses", hangs=kind == "hangs"):
        add(writer, 1)  # type: ignore[arg-type]
        lost = rf"the storage of {uri} has not answered for \d+ s: .*; 4 rows could not be written. "
        with pytest.raises(RunLost, match=f"^{lost}Go on with: python -m raynas.search --resume {uri}$"):
            checked_until(writer, lambda: False)
        with pytest.raises(RunLost):
            writer.check()
        writer.close()  # at once, and silently: it is known
    assert keys(uri)[0] == ["t0"]


@pytest.mark.parametrize("kind", ["refuses", "hangs"])
def test_what_is_asked_waits_as_long_as_rows_do(uri: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GIVE_UP", 0.6)
    said: list[str] = []
    writer, answers = Writer(uri, said.append, nothing), []
    action = lambda: answers.append(storage.write_json(uri, "best.json", 1))  # noqa: E731
    writer.ask(action)
    with trouble(refuses=kind == "refuses", hangs=kind == "hangs"), pytest.raises(RunLost, match="has not answered"):
        writer.ask(action)
    assert answers == [None]
    assert "the storage does not answer" in said[0]


def test_a_process_that_is_to_end_waits_for_no_answer(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(uri, print, nothing)
    monkeypatch.setattr(signals, "received", lambda: signal.SIGTERM)
    with trouble(hangs=True), pytest.raises(KeyboardInterrupt):
        writer.ask(lambda: storage.write_json(uri, "best.json", 1))


def test_trouble_at_the_very_end_is_not_silent(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GIVE_UP", 0.3)
    writer = Writer(uri, lambda text: None, nothing)
    with trouble(refuses=True):
        add(writer, 0)  # type: ignore[arg-type]
        with pytest.raises(RunLost, match="4 rows could not be written"):
            writer.close()


def test_what_need_not_succeed_is_a_warning_once(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    writer, done = Writer(uri, print, nothing), []

    def fails() -> None:
        raise OSError("no curves today")

    for action in (fails, lambda: done.append(1), fails):
        writer.then(action)
    writer.close()
    assert [record.getMessage() for record in caplog.records] == ["no curves today"]
    assert done == [1]


def test_a_damaged_part_ends_with_one_line_and_not_after_minutes(uri: str) -> None:
    writer = Writer(uri, print, nothing)
    add(writer, 0)  # type: ignore[arg-type]
    writer.flush()
    fs, root = storage.filesystem(uri)
    part = next(part.path for part in results.list_parts(fs, root))
    storage.write_bytes(fs, part, b"noise")
    with pytest.raises(ResultsError, match="is damaged"):
        writer.close()


def test_too_many_rows_that_wait_hold_up_the_search(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    writer = Writer(uri, lambda text: None, nothing)
    with trouble(hangs=True):
        add(writer, 0)  # type: ignore[arg-type]
        waiting = threading.Thread(target=writer.check)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join()
    writer.close()
    assert keys(uri)[0] == ["t0"]


def test_who_has_lost_the_folder_writes_no_more(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with Lock(uri, "again") as held:
        writer = Writer(uri, print, nothing, held.check)
        add(writer, 0)  # type: ignore[arg-type]
        writer.flush()
        fs, root = storage.filesystem(uri)
        parts = results.list_parts(fs, root)
        (claim,) = (info.path for info in storage.list_files(fs, root) if info.path.endswith(".json"))
        fs.delete_file(claim)
        with pytest.raises(RunLost, match="taken over"):
            checked_until(writer, lambda: False)
        writer.close()
        assert writer._thread is not None
        writer._thread.join(timeout=5.0)  # it had nothing to do, and must not wait for more: the process could not end in order
        assert not writer._thread.is_alive()
    assert results.list_parts(fs, root) == parts  # not even merged


def test_curves_reach_remote_storage_while_the_run_lives(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CURVES", 0.05)
    summary = RunSummary(storage.join(uri, "tensorboard"))
    writer = Writer(uri, print, summary.flush)
    writer.then(lambda: summary.trial_done(1, 1.0, 1.0, {"valid_accuracy": 0.5}))
    fs, root = storage.filesystem(uri)
    until(lambda: any(info.size for info in storage.list_files(fs, f"{root}/tensorboard/summary")))
    assert any(info.size for info in storage.list_files(fs, f"{root}/tensorboard/summary"))  # before anything is closed
    writer.then(summary.close)
    writer.close()


# A real object store


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        with s3_server() as options:
            yield options


def test_s3_has_one_writer_too(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "DEAD_AFTER", 2.0)  # the store's clock has whole seconds
    uri = f"s3://bucket/locked{s3}"
    dead = Lock(uri, "again")
    assert dead._claim() is None
    monkeypatch.setattr(lock, "_gone", lambda claim: False)  # as if elsewhere
    with pytest.raises(ResultsError, match="is being written by another process: host"), Lock(uri, "again"):
        pass
    time.sleep(3.1)
    with Lock(uri, "again"):
        names = [info.base_name for info in storage.list_files(dead._fs, "bucket/locked")]
        assert len([name for name in names if name.startswith(".lock-")]) == 2
    assert not [info for info in storage.list_files(dead._fs, "bucket/locked") if info.base_name.startswith(".lock-")]


def test_a_run_on_s3_is_written_with_single_puts(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = f"bucket/{uuid.uuid4().hex}"  # moto's servers of one process share what they hold
    uri = f"s3://{folder}{s3}"
    writer = Writer(uri, print, nothing)
    fs = writer._store.fs
    assert storage.is_object_store(fs)
    for order in range(12):
        add(writer, order)  # type: ignore[arg-type]
        writer.put_json("best.json", {"of": order})
        writer.flush()
    assert any(part.depth for part in results.list_parts(fs, folder))
    expected = keys(uri)
    assert expected == ([f"t{i}" for i in range(12)], [(f"t{i}", e) for i in range(12) for e in (1, 2)], [])
    writer.close()
    assert keys(uri) == expected
    assert json.loads(storage.read_bytes(fs, f"{folder}/best.json").to_pybytes()) == {"of": 11}
    assert sorted(info.base_name for info in storage.list_files(fs, folder)) == [
        "best.json",
        "parts",
        "reports.parquet",
        "trials.parquet",
    ]


def test_a_file_that_goes_while_it_is_read_is_not_found(s3: str) -> None:
    """As a part that a live writer merges: whoever reads looks again."""
    fs, root = storage.filesystem(f"s3://bucket/{uuid.uuid4().hex}{s3}")
    storage.write_bytes(fs, f"{root}/part", b"content")

    class Vanishing:
        get_file_info = fs.get_file_info

        def open_input_file(self, path: str) -> Any:
            opened = fs.open_input_file(path)
            fs.delete_file(path)
            return opened

    with pytest.raises(FileNotFoundError):
        storage.read_bytes(Vanishing(), f"{root}/part")
