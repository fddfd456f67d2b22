"""The tables of a run folder, and their reader; what writes them is raynas/run/store.py.

    trials.parquet, reports.parquet               one row a trial, one row a report
    parts/KIND-SEQUENCE-RANDOM.parquet            rows not merged yet; KIND is trials, reports or started (trials under way)
    config.json, best.json, ...                   see raynas/storage.py

What lets a writer be killed at any moment, and a reader read meanwhile:

* every file appears by a rename, complete; temporary files are called `.tmp-*`, without a suffix, and nobody reads them;
* the reports of a trial are written before its row in trials;
* parts are merged into the tables above by writing the merged file first and deleting the parts afterwards, oldest first.
  Rows present twice in between are recognised by their key: of equal trials the last counts, of equal reports the first;
* a reader lists the parts, reads them, and reads the merged files last: what leaves a part meanwhile is in the merged file.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raynas.errors import ResultsError
from raynas.storage import filesystem, first_line, read_bytes

STATUSES = ("finished", "stopped", "failed")
_ATTEMPTS = 10  # readings of a folder whose parts a live writer keeps merging


def _schema(required: Mapping[str, Any], optional: Mapping[str, Any]) -> Any:
    return pa.schema([pa.field(n, t, nullable=False) for n, t in required.items()] + [pa.field(n, t) for n, t in optional.items()])


TIME = pa.timestamp("us", tz="UTC")
_TRIAL = {"order": pa.int64(), "trial_id": pa.string(), "arch_id": pa.string(), "arch": pa.string()}  # arch: JSON
_METRICS = {"valid_accuracy": pa.float64(), "test_accuracy": pa.float64()}  # in [0, 1]
_SECONDS = {"train_seconds": pa.float64(), "wall_seconds": pa.float64()}  # a table's seconds and those of the clock

TRIALS = _schema(
    _TRIAL | {"status": pa.string()},
    {"epochs": pa.int64()}
    | _METRICS
    | {"parameters": pa.int64(), "flops": pa.int64()}
    | _SECONDS
    | {"started_at": TIME, "ended_at": TIME, "error": pa.string()},
)
REPORTS = _schema({"trial_id": pa.string(), "epoch": pa.int64()}, _METRICS | {"train_loss": pa.float64()} | _SECONDS)
STARTED = _schema(_TRIAL | {"started_at": TIME}, {"checkpoint": pa.string()})  # checkpoint: JSON, see raynas/run/recorder.py

SCHEMAS = {"started": STARTED, "reports": REPORTS, "trials": TRIALS}  # in the order in which a flush writes them
_PART = re.compile(r"(trials|reports|started)-(\d{8})-[0-9a-f]{8}\.parquet")


class Tables(NamedTuple):
    """What a run folder holds, with the schemas TRIALS, REPORTS and STARTED."""

    trials: Any  # pyarrow.Table, by order
    reports: Any  # pyarrow.Table, by the order of the trial, then by epoch
    started: Any  # pyarrow.Table, by order: trials that have no row in `trials`


def _parse(data: Any, path: str, schema: Any) -> Any:
    """The table in a Parquet file's bytes, with exactly `schema`."""
    try:
        return pq.read_table(pa.BufferReader(data), use_threads=False).select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ResultsError(f"{path} is damaged ({first_line(error)}); deleting it loses its rows but lets the rest be read") from error


def _merged(fs: Any, root: str, kind: str) -> Any:
    path = f"{root}/{kind}.parquet"
    try:
        return _parse(read_bytes(fs, path), path, SCHEMAS[kind])
    except FileNotFoundError:
        return SCHEMAS[kind].empty_table()


def list_parts(fs: Any, root: str) -> list[str]:
    """Paths of the part files, oldest first within a kind."""
    if isinstance(fs, pafs.PyFileSystem):
        fs.handler.fs.invalidate_cache()  # fsspec may remember a listing that a live run has changed since
    infos = fs.get_file_info(pafs.FileSelector(f"{root}/parts", allow_not_found=True))
    return sorted(info.path for info in infos if _PART.fullmatch(info.base_name))


def kind_of(path: str) -> str:
    return path.rpartition("/")[2].partition("-")[0]


def _unique(table: Any, keys: list[str], keep: str) -> Any:
    """The rows with different `keys`, in the order they have; of equal ones the first (keep="min") or the last ("max")."""
    numbered = table.select(keys).append_column("row", pa.array(range(len(table)), pa.int64()))
    rows = numbered.group_by(keys).aggregate([("row", keep)])[f"row_{keep}"].combine_chunks()
    return table if len(rows) == len(table) else table.take(rows.take(pc.sort_indices(rows)))


def _arrange(rows: Mapping[str, list[Any]]) -> Tables:
    """One sorted table a kind, without the rows that are there twice."""
    trials = _unique(pa.concat_tables(rows["trials"]), ["trial_id"], "max").sort_by("order")
    started = _unique(pa.concat_tables(rows["started"]), ["trial_id"], "max").sort_by("order")
    started = started.filter(pc.invert(pc.is_in(started["trial_id"], value_set=trials["trial_id"].combine_chunks())))
    reports = _unique(pa.concat_tables(rows["reports"]), ["trial_id", "epoch"], "min")
    known = pa.concat_tables([trials.select(["trial_id", "order"]), started.select(["trial_id", "order"])]).combine_chunks()
    order = known["order"].take(pc.index_in(reports["trial_id"], value_set=known["trial_id"].combine_chunks()))
    keys = reports.append_column("order", order)
    rank = pc.sort_indices(keys, sort_keys=[("order", "ascending"), ("trial_id", "ascending"), ("epoch", "ascending")])
    return Tables(trials, reports.take(rank), started)


def collect(fs: Any, root: str) -> tuple[Tables, list[str]]:
    """Everything in the folder, and the parts that went into it."""
    for _ in range(_ATTEMPTS):
        parts = list_parts(fs, root)
        try:
            with ThreadPoolExecutor(8) as pool:  # on remote storage the time goes into waiting
                contents = list(pool.map(lambda path: read_bytes(fs, path), parts))
        except FileNotFoundError:
            continue  # a live writer has merged it meanwhile: look again
        rows: dict[str, list[Any]] = {"started": [STARTED.empty_table()]}
        rows["trials"] = [_merged(fs, root, "trials")]
        rows["reports"] = [_merged(fs, root, "reports")]  # after trials: a trial that is seen has its reports
        for path, data in zip(parts, contents, strict=True):
            rows[kind_of(path)].append(_parse(data, path, SCHEMAS[kind_of(path)]))
        return _arrange(rows), parts
    raise ResultsError(f"{root} changes faster than it can be read; try again")


def read(uri: str) -> Tables:
    """The tables of a run that is live, was killed, or has ended.

    Raises:
        ResultsError: there is no such folder, it holds no run, or a file in it is damaged.
    """
    fs, root = filesystem(uri)
    try:
        if fs.get_file_info(root).type != pafs.FileType.Directory:
            raise ResultsError(f"there is no run folder {uri}; name the folder that a search wrote (--out)")
        tables, parts = collect(fs, root)
        names = ("config.json", "trials.parquet")
        if not parts and all(info.type == pafs.FileType.NotFound for info in fs.get_file_info([f"{root}/{name}" for name in names])):
            raise ResultsError(f"{uri} holds no run: neither config.json nor results; name the folder that a search wrote (--out)")
    except OSError as error:
        raise ResultsError(f"cannot read {uri}: {first_line(error)}") from error
    return tables
