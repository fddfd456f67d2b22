"""The Parquet store: what goes in comes out, for raynas and for other readers, and mistakes are one clear line."""

import math
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from run_rows import NOW, add, keys, report, started, tree, trial

from raynas import storage
from raynas.columns import REPORTS, RESERVED, STARTED, TRIALS
from raynas.errors import ResultsError
from raynas.outcome import Outcome
from raynas.results import outcome_of, read
from raynas.run.store import FAN_IN, RunStore


@pytest.fixture(params=["path", "file", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"path": str(tmp_path / "run"), "file": f"file://{tmp_path}/run", "memory": f"memory://{uuid.uuid4().hex}/run"}[request.param]


# What goes in comes out


def test_rows_come_back_while_the_run_lives_and_after_it(uri: str) -> None:
    store = RunStore(uri)
    rows = [trial(1), trial(0, status="failed", error="out of memory", epochs=None, valid_accuracy=None, test_accuracy=None)]
    for row in rows:
        store.add_trial(row)
    store.add_report(report(1, 2))
    store.add_report(report(0, 1))
    store.add_report(report(1, 1))
    store.add_started(started(2, checkpoint="checkpoints/2"))
    store.add_started(started(1))
    for finish in (store.flush, store.compact, store.close):
        finish()
        tables = read(uri)
        assert (tables.trials.schema, tables.reports.schema, tables.started.schema) == (TRIALS, REPORTS, STARTED)
        assert tables.trials.to_pylist() == [rows[1], rows[0]]
        assert tables.reports.to_pylist() == [report(0, 1), report(1, 1), report(1, 2)]
        assert tables.started.to_pylist() == [started(2, checkpoint="checkpoints/2")]


def test_a_finished_run_holds_two_tables_and_nothing_else(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    add(store, 0)
    store.close()
    assert tree(tmp_path) == {"trials.parquet", "reports.parquet"}
    assert pq.read_table(tmp_path / "trials.parquet").schema == TRIALS
    assert pq.read_table(tmp_path / "reports.parquet").schema == REPORTS


def test_an_empty_run_has_empty_tables(uri: str) -> None:
    storage.write_json(uri, "config.json", {})
    assert [len(table) for table in read(uri)] == [0, 0, 0]
    RunStore(uri).close()
    assert [table.schema for table in read(uri)] == [TRIALS, REPORTS, STARTED]


def test_numbers_that_are_not_finite_are_null_in_trials(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    store.add_trial(trial(0, valid_accuracy=math.nan, test_accuracy=-math.inf, train_seconds=np.float32("inf")))
    store.close()
    (row,) = read(str(tmp_path)).trials.to_pylist()
    assert [row[name] for name in ("valid_accuracy", "test_accuracy", "train_seconds")] == [None] * 3


def test_numpy_numbers_are_accepted(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    store.add_trial(trial(0, valid_accuracy=np.float32(0.5), parameters=np.int64(7)))
    store.close()
    (row,) = read(str(tmp_path)).trials.to_pylist()
    assert (row["valid_accuracy"], row["parameters"]) == (0.5, 7)


def test_of_equal_rows_the_last_trial_the_first_report_and_the_last_checkpoint_count(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    for turn in (1, 2, 3):
        store.add_started(started(0, checkpoint=f"c{turn}"))
        store.add_report(report(0, 1, train_loss=float(turn)))
        store.add_trial(trial(1, wall_seconds=float(turn)))
        store.flush()
    for finish in (store.flush, store.compact):
        finish()
        tables = read(str(tmp_path))
        assert tables.started["checkpoint"].to_pylist() == ["c3"]
        assert tables.reports["train_loss"].to_pylist() == [1.0]
        assert tables.trials["wall_seconds"].to_pylist() == [3.0]
    store.add_started(started(0, checkpoint="c4"))
    store.add_report(report(0, 1, train_loss=4.0))
    store.add_trial(trial(1, wall_seconds=4.0))
    store.close()
    tables = read(str(tmp_path))
    values = [tables.started["checkpoint"], tables.reports["train_loss"], tables.trials["wall_seconds"]]
    assert [value.to_pylist() for value in values] == [["c4"], [1.0], [4.0]]


def test_a_second_store_adds_to_the_first(tmp_path: Path) -> None:
    for order in range(4):
        store = RunStore(str(tmp_path))
        store.add_started(started(9, checkpoint=f"c{order}"))
        add(store, order)
        store.flush() if order % 2 else store.close()
    assert keys(str(tmp_path))[0] == ["t0", "t1", "t2", "t3"]
    assert read(str(tmp_path)).started["checkpoint"].to_pylist() == ["c3"]


def test_many_parts_are_merged_level_by_level(uri: str) -> None:
    store = RunStore(uri)
    written = []
    write_bytes = store._write
    store._write = lambda path, table: (written.append(len(table)), write_bytes(path, table))  # type: ignore[method-assign,func-returns-value]
    orders = 2 * FAN_IN**2 + 3
    for order in range(orders):
        store.add_trial(trial(order % 150, wall_seconds=float(order)))
        store.add_report(report(order % 150, 1, wall_seconds=float(order)))
        store.add_started(started(500, checkpoint=f"c{order}"))
        store.flush()
        store.merge_levels()
        assert len(store._parts) <= 3 * 3 * (FAN_IN - 1)
    assert {part.depth for part in store._parts} == {0, -2}
    assert sum(written) <= 3 * 3 * orders  # no row is written more than once a level
    for finish in (store.flush, store.close):
        finish()
        tables = read(uri)
        assert tables.trials["wall_seconds"].to_pylist() == [float(i + 150 if i < orders - 150 else i) for i in range(150)]
        assert tables.reports["wall_seconds"].to_pylist() == [float(i) for i in range(150)]
        assert tables.started["checkpoint"].to_pylist() == [f"c{orders - 1}"]


# Metrics that have no fixed column


def test_each_further_metric_is_a_column_after_the_fixed_ones(uri: str) -> None:
    store = RunStore(uri)
    store.add_trial(trial(0, latency=2.5, f1=0.5))
    store.add_report(report(0, 1, f1=0.25))
    store.flush()
    store.add_trial(trial(1, energy=np.float32(3.5), latency=math.nan, memory=7))
    store.add_trial(trial(2))
    store.add_report(report(1, 1, latency=2.0))
    names = ["energy", "f1", "latency", "memory"]
    for finish in (store.flush, store.compact, store.close):
        finish()
        tables = read(uri)
        assert tables.trials.schema.names == [*TRIALS.names, *names]
        assert tables.reports.schema.names == [*REPORTS.names, "f1", "latency"]
        assert {tables.trials.schema.field(name).type for name in names} == {pa.float64()}
        values = [[row[name] for name in names] for row in tables.trials.to_pylist()]
        assert values == [[None, 0.5, 2.5, None], [3.5, None, None, 7.0], [None] * 4]
        assert [(row["f1"], row["latency"]) for row in tables.reports.to_pylist()] == [(0.25, None), (None, 2.0)]


def test_a_run_of_an_earlier_version_is_read_and_goes_on(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    add(store, 0)
    store.close()
    for kind, lost in (("trials", ["error_file", "wall_seconds"]), ("reports", ["train_loss"])):
        path = tmp_path / f"{kind}.parquet"
        pq.write_table(pq.read_table(path).drop_columns(lost), path)
    tables = read(str(tmp_path))
    assert tables.trials.to_pylist() == [trial(0, wall_seconds=None)]
    assert {row["train_loss"] for row in tables.reports.to_pylist()} == {None}
    store = RunStore(str(tmp_path))
    store.add_trial(trial(1, latency=1.0, error_file="errors/t1.txt"))
    store.close()
    assert read(str(tmp_path)).trials.to_pylist() == [
        trial(0, wall_seconds=None, latency=None),
        trial(1, latency=1.0, error_file="errors/t1.txt"),
    ]


def test_of_columns_that_are_not_known_those_of_numbers_are_kept(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    add(store, 0)
    store.close()
    path = tmp_path / "trials.parquet"
    table = pq.read_table(path).append_column("kelvin", pa.array([2**60 + 1], pa.int64())).append_column("note", pa.array(["text"]))
    pq.write_table(table, path)
    assert read(str(tmp_path)).trials.to_pylist() == [trial(0, kelvin=float(2**60))]
    store = RunStore(str(tmp_path))
    add(store, 1)
    store.close()
    assert read(str(tmp_path)).trials.to_pylist() == [trial(0, kelvin=float(2**60)), trial(1, kelvin=None)]


def test_tables_become_frames(tmp_path: Path) -> None:
    add(store := RunStore(str(tmp_path)), 0)
    store.close()
    frames = read(str(tmp_path)).to_pandas()
    assert frames.trials.loc[0, "valid_accuracy"] == 0.9
    assert frames.reports["epoch"].tolist() == [1, 2]


def test_a_row_says_how_its_trial_ended() -> None:
    outcome = outcome_of(trial(0, latency=2.5, energy=None, status="stopped"))
    fixed = {"valid_accuracy": 0.9, "test_accuracy": 0.8, "parameters": 1000, "flops": 2000, "train_seconds": 60.0, "wall_seconds": 2.0}
    assert outcome == Outcome("stopped", 3.0, fixed | {"latency": 2.5})
    assert outcome_of(trial(0, status="failed", epochs=None, error="no")) == Outcome("failed", 0.0, fixed, "no")
    assert not RESERVED & fixed.keys()
    assert {"order", "status", "arch", "checkpoint", "epoch", "error_file"} <= RESERVED


# Other readers


def test_duckdb_and_pandas_read_metrics(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    store.add_trial(trial(0))
    store.flush()
    store.add_trial(trial(1, **{"latency": 2.5, "F1 score": 0.5}))
    store.flush()
    query = 'select latency, "F1 score" from read_parquet(\'{}\', union_by_name=true) order by "order"'
    for place in ("parts/trials-*.parquet", "trials.parquet"):
        assert duckdb.sql(query.format(tmp_path / place)).fetchall() == [(None, None), (2.5, 0.5)]
        store.compact()
    frame = pd.read_parquet(tmp_path / "trials.parquet")
    assert list(frame.columns) == [*TRIALS.names, "F1 score", "latency"]
    assert list(frame["latency"].fillna(-1)) == [-1, 2.5]


def test_duckdb_reads_the_parts_and_the_merged_file(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    for order in range(3):
        add(store, order)
        store.flush()
    (tmp_path / "parts" / ".tmp-0123").write_bytes(b"half a fi")
    query = "select trial_id, valid_accuracy, started_at, epoch_us(ended_at) as us from '{}' order by \"order\""
    microseconds = int(NOW.timestamp()) * 1_000_000 + NOW.microsecond
    for place in ("parts/trials-*.parquet", "trials.parquet"):
        rows = duckdb.sql(query.format(tmp_path / place)).to_arrow_table().to_pylist()
        assert [(row["trial_id"], row["valid_accuracy"], row["us"]) for row in rows] == [(f"t{i}", 0.9, microseconds) for i in range(3)]
        assert rows[0]["started_at"] == NOW
        store.compact()
    mixed = f"select count(*), count(status) from read_parquet('{tmp_path}/*.parquet', union_by_name=true)"
    assert duckdb.sql(mixed).fetchall() == [(9, 3)]


def test_pandas_reads_the_merged_file(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    add(store, 0)
    store.add_trial(trial(1, status="stopped", valid_accuracy=None))
    store.close()
    frame = pd.read_parquet(tmp_path / "trials.parquet")
    assert list(frame.columns) == TRIALS.names
    assert list(frame["status"]) == ["finished", "stopped"]
    assert list(frame["valid_accuracy"].isna()) == [False, True]
    assert frame["ended_at"][0] == pd.Timestamp(NOW)
    assert len(pd.read_parquet(tmp_path / "reports.parquet")) == 2


# Mistakes


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "foreign"])
def test_a_damaged_part_is_named_and_can_be_moved_away(tmp_path: Path, damage: str) -> None:
    store = RunStore(str(tmp_path))
    for order in (0, 1):
        store.add_trial(trial(order))
        store.flush()
    part = min((tmp_path / "parts").glob("trials-*.parquet"))
    content = part.read_bytes()
    foreign = tmp_path / "foreign.parquet"
    pd.DataFrame({"x": [1]}).to_parquet(foreign)
    noise = content[:30] + b"\xff" * 60 + content[90:]
    part.write_bytes({"empty": b"", "cut": content[:-100], "noise": noise, "foreign": foreign.read_bytes()}[damage])
    with pytest.raises(
        ResultsError, match=r"^\S+parquet is damaged \(.*\); put a copy .* elsewhere: the rest can be read without it$"
    ) as info:
        read(str(tmp_path))
    assert str(part) in str(info.value)
    assert "delet" not in str(info.value)
    part.rename(tmp_path / "elsewhere.parquet")
    assert keys(str(tmp_path))[0] == ["t1"]


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"holds no run: neither config\.json nor results"):
        read(str(tmp_path))
    (tmp_path / "parts").mkdir()
    with pytest.raises(ResultsError, match="holds no run"):
        read(str(tmp_path))


@pytest.mark.parametrize("missing", ["none", "file/below", "file"])
def test_a_missing_folder_is_an_error(tmp_path: Path, missing: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="there is no run folder"):
        read(str(tmp_path / missing))
    with pytest.raises(ResultsError, match="there is no run folder"):
        read(f"memory://{uuid.uuid4().hex}/{missing}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (trial(0, note="text"), "a row of trials has no column note; allowed: order, trial_id, .*, and numbers as metrics"),
        (trial(0, arch=None), "a row of trials lacks arch"),
        (trial(0, status="done"), "status 'done' of a trial is not one of finished, stopped, failed"),
        (trial(0, ended_at=NOW.replace(tzinfo=None)), "ended_at in a row of trials is not a datetime with a time zone"),
        (trial(0, parameters="many"), "a row of trials has a value of the wrong type"),
        (trial(0, started_at=12.5), "started_at in a row of trials is not a datetime with a time zone"),
        (trial(0, flops=2**70), "a row of trials has a value of the wrong type"),
    ],
)
def test_a_wrong_row_is_refused_and_leaves_the_store_usable(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    store = RunStore(str(tmp_path))
    with pytest.raises(ResultsError, match=message) as info:
        store.add_trial(row)
    assert "\n" not in str(info.value)
    store.add_trial(trial(1))
    store.close()
    assert keys(str(tmp_path))[0] == ["t1"]


def test_rows_that_could_not_be_written_stay_buffered(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    add(store, 0)
    (tmp_path / "parts").rmdir()
    with pytest.raises(ResultsError, match=r"^cannot write .*parts/started-.*$"):
        store.flush()
    (tmp_path / "parts").mkdir()
    store.close()
    assert keys(str(tmp_path)) == (["t0"], [("t0", 1), ("t0", 2)], [])


def test_a_store_in_a_place_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"^cannot create the folder "):
        RunStore(str(tmp_path / "file"))


# Places and JSON


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("a b/run", "a b/run/", str(tmp_path / "a b" / "run"), f"file://{tmp_path}/a%20b/run/"):
        fs, path = storage.filesystem(place)
        assert isinstance(fs, pafs.LocalFileSystem)
        assert path == str(tmp_path / "a b" / "run")
    fs, path = storage.filesystem("gs://anonymous@bucket/runs/1/")
    assert (fs.type_name, path) == ("gcs", "bucket/runs/1")


@pytest.mark.parametrize("place", ["nope://bucket/run", "s3:// /x"])
def test_an_unknown_scheme_is_one_clear_line(place: str) -> None:
    with pytest.raises(ResultsError, match=r"^cannot open [^\n]+$"):
        storage.filesystem(place)


def test_a_name_is_joined_before_the_options_of_a_uri() -> None:
    assert storage.join("runs/1/", "a", "b") == "runs/1/a/b"
    assert storage.join("what?/1", "a") == "what?/1/a"
    assert storage.join("s3://b/k?endpoint_override=localhost:9000", "a") == "s3://b/k/a?endpoint_override=localhost:9000"


def test_json_comes_back_with_null_for_what_is_not_finite(uri: str) -> None:
    assert not storage.exists(uri, "best.json")
    storage.write_json(uri, "best.json", {"a": [1, math.nan, (math.inf, "x")], "b": {"c": -math.inf, "d": True}})
    storage.write_json(uri, "best.json", {"a": [1, math.nan, (math.inf, "x")], "b": {"c": None, "d": True}})
    assert storage.exists(uri, "best.json")
    assert storage.read_json(uri, "best.json") == {"a": [1, None, [None, "x"]], "b": {"c": None, "d": True}}


def test_json_is_indented_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path), "best.json", {"a": 1})
    assert (tmp_path / "best.json").read_text() == '{\n  "a": 1\n}\n'
    assert tree(tmp_path) == {"best.json"}


def test_a_write_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "best.json").mkdir()
    with pytest.raises(ResultsError, match=r"^cannot write \S+best\.json: "):
        storage.write_json(str(tmp_path), "best.json", {"a": 1})
    assert tree(tmp_path) == set()


def test_missing_or_damaged_json_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"config\.json does not exist; is .* the folder of a run\?$"):
        storage.read_json(str(tmp_path), "config.json")
    for content in (b'{"a": ', b"\xff\xfe"):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ResultsError, match=r"config\.json is not valid JSON: [^\n]+$"):
            storage.read_json(str(tmp_path), "config.json")


def test_the_module_imports_neither_torch_nor_ray() -> None:
    code = "import sys, raynas.results; assert not {'torch', 'ray', 'pandas', 'tensorboard'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
