"""The store of a run folder: Parquet tables and JSON files, on a local path or any URI that pyarrow or fsspec opens.

    trials.parquet, reports.parquet               one row a trial, one row a report
    parts/KIND-SEQUENCE-RANDOM.parquet            rows not merged yet; KIND is trials, reports or started (trials under way)
    config.json, best.json, ...                   see `write_json`

What lets a writer be killed at any moment, and a reader read meanwhile:

* every file appears by a rename, complete; temporary files are called `.tmp-*`, without a suffix, and nobody reads them;
* the reports of a trial are written before its row in trials;
* parts are merged into the tables above by writing the merged file first and deleting the parts afterwards, oldest first.
  Rows present twice in between are recognised by their key: of equal trials the last counts, of equal reports the first;
* a reader lists the parts, reads them, and reads the merged files last: what leaves a part meanwhile is in the merged file.
"""

import json
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from numbers import Real
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raynas.errors import ResultsError

STATUSES = ("finished", "stopped", "failed")
MAX_PARTS = 100  # more part files than this are merged
_ATTEMPTS = 10  # readings of a folder whose parts a live writer keeps merging


def _schema(required: Mapping[str, Any], optional: Mapping[str, Any]) -> Any:
    return pa.schema([pa.field(n, t, nullable=False) for n, t in required.items()] + [pa.field(n, t) for n, t in optional.items()])


_TIME = pa.timestamp("us", tz="UTC")
_TRIAL = {"order": pa.int64(), "trial_id": pa.string(), "arch_id": pa.string(), "arch": pa.string()}  # arch: JSON
_METRICS = {"valid_accuracy": pa.float64(), "test_accuracy": pa.float64()}  # in [0, 1]
_SECONDS = {"train_seconds": pa.float64(), "wall_seconds": pa.float64()}  # a table's seconds and those of the clock

TRIALS = _schema(
    _TRIAL | {"status": pa.string()},
    {"epochs": pa.int64()}
    | _METRICS
    | {"parameters": pa.int64(), "flops": pa.int64()}
    | _SECONDS
    | {"started_at": _TIME, "ended_at": _TIME, "error": pa.string()},
)
REPORTS = _schema({"trial_id": pa.string(), "epoch": pa.int64()}, _METRICS | {"train_loss": pa.float64()} | _SECONDS)
STARTED = _schema(_TRIAL | {"started_at": _TIME}, {"checkpoint": pa.string()})  # checkpoint: JSON, see raynas/recorder.py

_SCHEMAS = {"started": STARTED, "reports": REPORTS, "trials": TRIALS}  # in the order in which a flush writes them
_PART = re.compile(r"(trials|reports|started)-(\d{8})-[0-9a-f]{8}\.parquet")


class Tables(NamedTuple):
    """What a run folder holds, with the schemas TRIALS, REPORTS and STARTED."""

    trials: Any  # pyarrow.Table, by order
    reports: Any  # pyarrow.Table, by the order of the trial, then by epoch
    started: Any  # pyarrow.Table, by order: trials that have no row in `trials`


# Places


def filesystem(uri: str) -> tuple[Any, str]:
    """The pyarrow filesystem of a path or URI, and the path inside it, without a slash at the end.

    Raises:
        ResultsError: nothing opens the scheme, or the storage does not answer.
    """
    uri = str(uri)
    if "://" not in uri:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        fs, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a scheme that pyarrow does not know
        fs, path = _fsspec(uri)
    except OSError as error:
        raise ResultsError(f"cannot open {uri}: {_line(error)}") from error
    return fs, path.rstrip("/") or "/"


def _fsspec(uri: str) -> tuple[Any, str]:
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError, OSError) as error:
        raise ResultsError(f"cannot open {uri}: {_line(error)}; allowed: a path, or a URI such as s3://, gs:// or file://") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), path


def join(uri: str, *names: str) -> str:
    """`uri` with further path components, placed before the options (`?...`) that a URI may carry."""
    head, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return "/".join([head.rstrip("/"), *names]) + mark + options


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# Files


def make_folder(fs: Any, path: str) -> None:
    """Creates a folder and those above it, if need be.

    Raises:
        ResultsError: the storage refuses.
    """
    try:
        fs.create_dir(path, recursive=True)
    except OSError as error:
        raise ResultsError(f"cannot create the folder {path}: {_line(error)}") from error


def write_bytes(fs: Any, path: str, data: Any, temporary_in: str | None = None) -> None:
    """Writes a file that appears complete or not at all: under a temporary name in the folder `temporary_in`, or its own, then renamed.

    Raises:
        ResultsError: the storage refuses.
    """
    temporary = f"{temporary_in or path.rpartition('/')[0]}/.tmp-{secrets.token_hex(8)}"
    try:
        with fs.open_output_stream(temporary) as stream:
            stream.write(data)
        fs.move(temporary, path)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {_line(error)}") from error


def _read_bytes(fs: Any, path: str) -> Any:
    """The content as a pyarrow buffer; FileNotFoundError is left to the caller, any other failure is a ResultsError."""
    try:
        with fs.open_input_file(path) as file:
            return file.read_buffer()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {_line(error)}") from error


def _finite(value: Any) -> Any:
    """`value` with every NaN and infinity in it replaced by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, Real) and not math.isfinite(value) else value


def write_json(uri: str, name: str, value: Any) -> None:
    """Writes plain JSON as file `name` of a run folder, in one step; NaN and infinities become null.

    Raises:
        ResultsError: the storage refuses.
    """
    text = json.dumps(_finite(value), indent=2, allow_nan=False)
    fs, root = filesystem(uri)
    make_folder(fs, root)
    write_bytes(fs, f"{root}/{name}", text.encode() + b"\n")


def read_json(uri: str, name: str) -> Any:
    """The value that `write_json` wrote.

    Raises:
        ResultsError: the file is missing or damaged.
    """
    fs, root = filesystem(uri)
    try:
        return json.loads(_read_bytes(fs, f"{root}/{name}").to_pybytes())
    except FileNotFoundError:
        raise ResultsError(f"{join(uri, name)} does not exist; is {uri} the folder of a run?") from None
    except ValueError as error:
        raise ResultsError(f"{join(uri, name)} is not valid JSON: {_line(error)}") from error


def exists(uri: str, name: str) -> bool:
    """Whether a run folder holds the file `name`.

    Raises:
        ResultsError: the storage does not answer.
    """
    fs, root = filesystem(uri)
    try:
        return bool(fs.get_file_info(f"{root}/{name}").type == pafs.FileType.File)
    except OSError as error:
        raise ResultsError(f"cannot read {uri}: {_line(error)}") from error


# Tables


def _parse(data: Any, path: str, schema: Any) -> Any:
    """The table in a Parquet file's bytes, with exactly `schema`."""
    try:
        return pq.read_table(pa.BufferReader(data), use_threads=False).select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ResultsError(f"{path} is damaged ({_line(error)}); deleting it loses its rows but lets the rest be read") from error


def _merged(fs: Any, root: str, kind: str) -> Any:
    path = f"{root}/{kind}.parquet"
    try:
        return _parse(_read_bytes(fs, path), path, _SCHEMAS[kind])
    except FileNotFoundError:
        return _SCHEMAS[kind].empty_table()


def _list_parts(fs: Any, root: str) -> list[str]:
    """Paths of the part files, oldest first within a kind."""
    if isinstance(fs, pafs.PyFileSystem):
        fs.handler.fs.invalidate_cache()  # fsspec may remember a listing that a live run has changed since
    infos = fs.get_file_info(pafs.FileSelector(f"{root}/parts", allow_not_found=True))
    return sorted(info.path for info in infos if _PART.fullmatch(info.base_name))


def _kind(path: str) -> str:
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


def _collect(fs: Any, root: str) -> tuple[Tables, list[str]]:
    """Everything in the folder, and the parts that went into it."""
    for _ in range(_ATTEMPTS):
        parts = _list_parts(fs, root)
        try:
            with ThreadPoolExecutor(8) as pool:  # on remote storage the time goes into waiting
                contents = list(pool.map(lambda path: _read_bytes(fs, path), parts))
        except FileNotFoundError:
            continue  # a live writer has merged it meanwhile: look again
        rows: dict[str, list[Any]] = {"started": [STARTED.empty_table()]}
        rows["trials"] = [_merged(fs, root, "trials")]
        rows["reports"] = [_merged(fs, root, "reports")]  # after trials: a trial that is seen has its reports
        for path, data in zip(parts, contents, strict=True):
            rows[_kind(path)].append(_parse(data, path, _SCHEMAS[_kind(path)]))
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
        tables, parts = _collect(fs, root)
        names = ("config.json", "trials.parquet")
        if not parts and all(info.type == pafs.FileType.NotFound for info in fs.get_file_info([f"{root}/{name}" for name in names])):
            raise ResultsError(f"{uri} holds no run: neither config.json nor results; name the folder that a search wrote (--out)")
    except OSError as error:
        raise ResultsError(f"cannot read {uri}: {_line(error)}") from error
    return tables


# The writer


def _checked(kind: str, row: Mapping[str, Any]) -> Any:
    """A table of one row, so that a wrong row fails where it comes from and not at the flush."""
    schema = _SCHEMAS[kind]
    if unknown := row.keys() - set(schema.names):
        raise ResultsError(f"a row of {kind} has no column {', '.join(sorted(unknown))}; allowed: {', '.join(schema.names)}")
    if missing := [f.name for f in schema if not f.nullable and row.get(f.name) is None]:
        raise ResultsError(f"a row of {kind} lacks {', '.join(missing)}")
    if row.get("status", STATUSES[0]) not in STATUSES:
        raise ResultsError(f"status {row['status']!r} of a trial is not one of {', '.join(STATUSES)}")
    # pyarrow would take a number for microseconds since 1970, and a time without zone for UTC.
    times = [f.name for f in schema if f.type == _TIME and row.get(f.name) is not None]
    if wrong := [name for name in times if not isinstance(row[name], datetime) or row[name].tzinfo is None]:
        raise ResultsError(f"{', '.join(wrong)} in a row of {kind} is not a datetime with a time zone; use datetime.now(UTC)")
    try:
        return pa.Table.from_pylist([dict(row)], schema=schema)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ResultsError(f"a row of {kind} has a value of the wrong type: {_line(error)}") from error


class RunStore:
    """Writes the tables of one run folder; one process and one thread at a time.

    Rows wait in memory until a flush. A store opened on a folder with results adds to them: this is how a run is resumed.

    Raises:
        ResultsError: (every method) a row does not fit its schema, or the storage refuses; rows not yet written stay buffered.
    """

    def __init__(self, uri: str) -> None:
        self._fs, self._root = filesystem(uri)
        self._parts_folder = f"{self._root}/parts"
        self._rows: dict[str, list[Any]] = {kind: [] for kind in _SCHEMAS}
        make_folder(self._fs, self._parts_folder)
        try:
            for info in self._fs.get_file_info(pafs.FileSelector(self._parts_folder)):
                if info.base_name.startswith(".tmp-"):  # of a writer that was killed
                    self._fs.delete_file(info.path)
            parts = _list_parts(self._fs, self._root)
        except OSError as error:
            raise ResultsError(f"cannot open {uri} for writing: {_line(error)}") from error
        self._count = len(parts)
        self._sequence = max((int(path.rpartition("/")[2].split("-")[1]) for path in parts), default=0)
        self._flushed = time.monotonic()

    def add_started(self, row: Mapping[str, Any]) -> None:
        """A trial that starts, or one under way whose checkpoint is newer: columns of STARTED."""
        self._rows["started"].append(_checked("started", row))

    def add_report(self, row: Mapping[str, Any]) -> None:
        """A report of a trial: columns of REPORTS. Of two reports of one trial and epoch the first counts."""
        self._rows["reports"].append(_checked("reports", row))

    def add_trial(self, row: Mapping[str, Any]) -> None:
        """A trial that has ended: columns of TRIALS; a metric that is NaN or infinite is stored as null."""
        self._rows["trials"].append(_checked("trials", _finite(row)))

    def flush(self) -> None:
        """Writes what is buffered; merges the parts when there are more than MAX_PARTS."""
        for kind, rows in self._rows.items():
            if rows:
                self._write_part(kind, pa.concat_tables(rows))
                rows.clear()
        self._flushed = time.monotonic()
        if self._count > MAX_PARTS:
            self.compact()

    def maybe_flush(self, seconds: float = 1.0) -> None:
        """Flushes if something is buffered and the last flush is at least `seconds` ago."""
        if not self.flushed_all and time.monotonic() - self._flushed >= seconds:
            self.flush()

    @property
    def flushed_all(self) -> bool:
        """Whether no row is waiting to be written."""
        return not any(self._rows.values())

    def compact(self) -> None:
        """Merges the parts into trials.parquet and reports.parquet; trials under way stay behind as one part."""
        try:
            tables, parts = _collect(self._fs, self._root)
            for kind, table in (("reports", tables.reports), ("trials", tables.trials)):  # reports first, as in a flush
                path = f"{self._root}/{kind}.parquet"
                absent = self._fs.get_file_info(path).type == pafs.FileType.NotFound
                if absent or any(_kind(part) == kind for part in parts):
                    self._write(path, table)
            if len(tables.started):
                self._write_part("started", tables.started)
            # Oldest first: what a kill leaves are the newest parts, so that the last row of a trial is still the last.
            for part in parts:
                self._fs.delete_file(part)
        except OSError as error:
            raise ResultsError(f"cannot merge the parts in {self._parts_folder}: {_line(error)}") from error
        self._count = min(len(tables.started), 1)

    def close(self) -> None:
        """Writes what is buffered and merges the parts."""
        self.flush()
        self.compact()

    def _write_part(self, kind: str, table: Any) -> None:
        self._sequence += 1
        self._write(f"{self._parts_folder}/{kind}-{self._sequence:08d}-{secrets.token_hex(4)}.parquet", table)
        self._count += 1

    def _write(self, path: str, table: Any) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_bytes(self._fs, path, sink.getvalue(), temporary_in=self._parts_folder)
