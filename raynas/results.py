"""The tables of a run folder, and their reader; what writes them is raynas/run/store.py.

    trials.parquet, reports.parquet               one row a trial, one row a report
    parts/KIND-SEQUENCE-RANDOM[-LEVEL].parquet    rows not merged yet; KIND is trials, reports or started (trials under way)
    errors/TRIAL_ID.txt                           the whole text of an error
    front.parquet                                 of several objectives: the rows of trials.parquet that no other is better than
    config.json, best.json, ...                   see raynas/storage.py

raynas/columns.py says what columns there are. Those that every run has come first; each further metric that trials reported follows as
one of numbers, by name, null where it was not reported. Files may differ in these (DuckDB:
`read_parquet('RUN/parts/trials-*.parquet', union_by_name=true)`), and what an earlier version of raynas wrote, with fewer columns, is
read too.

What lets a writer be killed at any moment, and a reader read meanwhile:

* every file appears complete: by a rename, or by a single PUT; temporary files are called `.tmp-*`, and nobody reads them;
* the reports of a trial are written before its row in trials, and before a row in started whose checkpoint they led to;
* while a run lives, all parts of one level, once there are many, are merged into one of the next level, which takes the sequence number
  of the oldest of them; so parts sorted by sequence, the higher level first, are in the order in which their rows were written;
* at the end all parts are merged into the tables above. Whatever is merged, the new file is written first and the parts are deleted
  afterwards, oldest first. Rows present twice in between are recognised by their key: of equal trials the last counts, of equal reports
  the first;
* a reader lists the parts, reads them, and reads the merged tables last: what leaves a part meanwhile is there. It lists them again
  until none has gone and none of a higher level has come, as a listing may miss both what is merged and what it is merged into.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raynas.columns import RESERVED, SCHEMAS, STARTED, with_metrics
from raynas.errors import DamagedError, ResultsError
from raynas.outcome import Outcome
from raynas.storage import filesystem, first_line, in_parallel, list_files, read_bytes

_ATTEMPTS = 10  # readings of a folder whose parts a live writer keeps merging


_KEYS = {"started": (["trial_id"], "max"), "reports": (["trial_id", "epoch"], "min"), "trials": (["trial_id"], "max")}  # which row counts
_PART = re.compile(r"(trials|reports|started)-(\d{8})-[0-9a-f]{8}(?:-(\d+))?\.parquet")


class Tables(NamedTuple):
    """What a run folder holds, with the columns of raynas.columns, and those of further metrics."""

    trials: Any  # pyarrow.Table, by order
    reports: Any  # pyarrow.Table, by the order of the trial, then by epoch
    started: Any  # pyarrow.Table, by order: trials that have no row in `trials`

    def to_pandas(self) -> "Tables":
        """The same as frames of pandas."""
        return Tables(*(table.to_pandas() for table in self))


def united(kind: str, tables: Sequence[Any]) -> Any:
    """All rows of one or more tables, whose metrics may differ."""
    filled = [table for table in tables if len(table)] or tables
    table = pa.concat_tables(filled, promote_options="default")
    return table.select(with_metrics(kind, table.column_names).names)


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What a row of trials or reports knows of metrics, by name."""
    return {name: value for name, value in row.items() if name not in RESERVED and value is not None}


def outcome_of(row: Mapping[str, Any]) -> Outcome:
    """What a row of trials says of its trial."""
    return Outcome(row["status"], row["epochs"] or 0.0, metrics_of(row), row["error"])


def _numeric(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _parse(data: Any, path: str, kind: str) -> Any:
    """The table in a Parquet file's bytes; a column that a row may lack may be missing, and one that is not known is a metric."""
    fixed = SCHEMAS[kind]
    try:
        table = pq.read_table(pa.BufferReader(data), use_threads=False)
        if missing := [field.name for field in fixed if not field.nullable and field.name not in table.column_names]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        schema = with_metrics(kind, (field.name for field in table.schema if _numeric(field.type)), table.schema)
        columns = [
            table[name].cast(schema.field(name).type, safe=name in fixed.names)
            if name in table.column_names
            else pa.nulls(len(table), schema.field(name).type)
            for name in schema.names
        ]
        return pa.table(columns, names=schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DamagedError(
            f"{path} is damaged ({first_line(error)}); put a copy of it in its place, or move it elsewhere: the rest can be read without it"
        ) from error


def _merged(fs: Any, root: str, kind: str) -> Any:
    path = f"{root}/{kind}.parquet"
    try:
        return _parse(read_bytes(fs, path), path, kind)
    except FileNotFoundError:
        return SCHEMAS[kind].empty_table()


class Part(NamedTuple):
    """A part file; sorted, those of a kind are in the order of their rows."""

    kind: str
    sequence: int
    depth: int  # minus the level: 0 of what was flushed, 1 of ten of those, ...
    path: str


def list_parts(fs: Any, root: str) -> list[Part]:
    """The part files, oldest first within a kind."""
    found = ((_PART.fullmatch(info.base_name), info.path) for info in list_files(fs, f"{root}/parts"))
    return sorted(Part(match[1], int(match[2]), -int(match[3] or 0), path) for match, path in found if match)


def unique(kind: str, table: Any) -> Any:
    """Of rows with equal keys the one that counts, in the order they have."""
    keys, keep = _KEYS[kind]
    numbered = table.select(keys).append_column("row", pa.array(range(len(table)), pa.int64()))
    rows = numbered.group_by(keys).aggregate([("row", keep)])[f"row_{keep}"].combine_chunks()
    return table if len(rows) == len(table) else table.take(rows.take(pc.sort_indices(rows)))


def _arrange(rows: Mapping[str, list[Any]]) -> Tables:
    """One sorted table a kind, without the rows that are there twice."""
    trials = unique("trials", united("trials", rows["trials"])).sort_by("order")
    started = unique("started", united("started", rows["started"])).sort_by("order")
    started = started.filter(pc.invert(pc.is_in(started["trial_id"], value_set=trials["trial_id"].combine_chunks())))
    reports = unique("reports", united("reports", rows["reports"]))
    known = pa.concat_tables([trials.select(["trial_id", "order"]), started.select(["trial_id", "order"])]).combine_chunks()
    order = known["order"].take(pc.index_in(reports["trial_id"], value_set=known["trial_id"].combine_chunks()))
    keys = reports.append_column("order", order)
    rank = pc.sort_indices(keys, sort_keys=[("order", "ascending"), ("trial_id", "ascending"), ("epoch", "ascending")])
    return Tables(trials, reports.take(rank), started)


def read_parts(fs: Any, parts: Sequence[Part]) -> list[Any]:
    """The tables in some parts, None for one that is gone."""

    def content(part: Part) -> Any:
        try:
            return read_bytes(fs, part.path)
        except FileNotFoundError:
            return None

    contents = in_parallel(content, parts)
    return [None if data is None else _parse(data, part.path, part.kind) for part, data in zip(parts, contents, strict=True)]


def collect(fs: Any, root: str) -> tuple[Tables, list[Part]]:
    """Everything in the folder, and the parts that went into it."""
    read: dict[Part, Any] = {}
    gone = True
    for _ in range(_ATTEMPTS):
        new = [part for part in list_parts(fs, root) if part not in read]
        if not gone and not any(part.depth for part in new):
            rows: dict[str, list[Any]] = {"started": [STARTED.empty_table()]}
            rows["trials"] = [_merged(fs, root, "trials")]
            rows["reports"] = [_merged(fs, root, "reports")]  # after trials: a trial that is seen has its reports
            for part in sorted(read):
                rows[part.kind].append(read[part])
            return _arrange(rows), sorted(read)
        tables = read_parts(fs, new)
        read |= {part: table for part, table in zip(new, tables, strict=True) if table is not None}
        gone = any(table is None for table in tables)  # a live writer has merged it meanwhile: look again
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


def read_front(uri: str) -> Any:
    """The trials of the front of a run with several objectives, with the columns of trials; it is written when a session ends.

    Raises:
        ResultsError: there is none, or it is damaged.
    """
    fs, root = filesystem(uri)
    path = f"{root}/front.parquet"
    try:
        return _parse(read_bytes(fs, path), path, "trials")
    except FileNotFoundError:
        why = "it is written when a search with several objectives ends, or is resumed and ends"
        raise ResultsError(f"{uri} has no front.parquet; {why}") from None
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {first_line(error)}") from error
