"""What the files of a run say of their columns, to every reader."""

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_rows import add, report, trial

from raynas.columns import REPORTS, STARTED, TRIALS
from raynas.outcome import METRICS, Metric, declare
from raynas.results import read
from raynas.run.store import RunStore

LATENCY = declare({"latency": {"unit": "ms", "description": "of one image"}, "valid_accuracy": {"high": 100, "unit": "%"}}, METRICS)


def told(field: pa.Field) -> tuple[str | None, str | None]:
    """The unit and the description of a column."""
    unit, text = ((field.metadata or {}).get(key) for key in (b"unit", b"description"))
    return unit and unit.decode(), text and text.decode()


@pytest.mark.parametrize("schema", [TRIALS, REPORTS, STARTED], ids=["trials", "reports", "started"])
def test_every_column_has_a_description_and_what_is_measured_a_unit(schema: pa.Schema) -> None:
    for field in schema:
        unit, description = told(field)
        assert description, field.name
        assert unit or not pa.types.is_floating(field.type) or field.name in ("train_loss", "acquisition"), field.name


@pytest.mark.parametrize(("name", "schema"), [("trials", TRIALS), ("reports", REPORTS)])
def test_the_page_about_results_has_them_all(name: str, schema: pa.Schema) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    lines = page[page.index(f"`{name}.parquet` has one row") :].splitlines()
    rows = [line for line in lines[: lines.index("", 3)] if line.startswith("| `")]
    kinds = {"int64": "whole number", "double": "number", "string": "text", "timestamp[us, tz=UTC]": "time"}
    assert rows == [f"| `{f.name}` | {kinds[str(f.type)]} | {told(f)[0] or ''} | {told(f)[1]} |" for f in schema]


def test_what_is_declared_of_a_metric_is_in_every_file(tmp_path: Path) -> None:
    for order in range(2):  # the second adds to the first, as a resumed run
        store = RunStore(str(tmp_path), LATENCY)
        store.add_trial(trial(order, latency=2.5))
        store.add_report(report(order, 1, latency=2.5, f1=0.5))
        store.flush()
        parts = [pq.read_schema(path) for path in (tmp_path / "parts").glob("*.parquet")]
        store.close()
        merged = [pq.read_schema(tmp_path / f"{kind}.parquet") for kind in ("trials", "reports")]
        for schema in (*parts, *merged, read(str(tmp_path)).trials.schema):
            assert told(schema.field("latency")) == ("ms", "of one image")
            assert told(schema.field("valid_accuracy")) == ("%", METRICS["valid_accuracy"].description)
            assert told(schema.field("wall_seconds"))[0] == "s"
    assert told(merged[1].field("f1")) == (None, None)


def test_a_writer_that_knows_less_keeps_what_is_said(tmp_path: Path) -> None:
    for metrics in (LATENCY, METRICS):
        store = RunStore(str(tmp_path), metrics)
        store.add_trial(trial(len(metrics), latency=2.5))
        store.close()
    assert told(read(str(tmp_path)).trials.schema.field("latency")) == ("ms", "of one image")


def test_files_of_an_earlier_version_say_it_when_they_are_read_and_written_again(tmp_path: Path) -> None:
    add(store := RunStore(str(tmp_path)), 0)
    store.close()
    path = tmp_path / "trials.parquet"
    old = pq.read_table(path).drop_columns(["peak_memory"])
    pq.write_table(pa.table(old.columns, names=old.column_names), path)
    assert told(pq.read_schema(path).field("wall_seconds")) == (None, None)
    assert told(read(str(tmp_path)).trials.schema.field("wall_seconds"))[0] == "s"
    store = RunStore(str(tmp_path))
    add(store, 1)
    store.close()
    assert told(pq.read_schema(path).field("peak_memory"))[0] == "bytes"


def test_duckdb_reads_them(tmp_path: Path) -> None:
    add(store := RunStore(str(tmp_path), LATENCY | {"odd": Metric("odd", unit='"°"')}), 0)
    store.add_trial(trial(1, latency=1.0, odd=1.0))
    store.close()
    query = f"select decode(value) from parquet_kv_metadata('{tmp_path}/trials.parquet') where decode(key) = 'columns'"
    (found,) = duckdb.sql(query).fetchall()
    units = {column["name"]: column["unit"] for column in json.loads(found[0])}
    assert list(units) == [*TRIALS.names, "latency", "odd"]
    assert (units["latency"], units["odd"], units["peak_memory"], units["arch"]) == ("ms", '"°"', "bytes", None)
