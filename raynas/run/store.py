"""The writer of a run folder's tables; raynas/run/writer.py runs it in a thread."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raynas.columns import SCHEMAS, TIME, described, with_metrics
from raynas.errors import ResultsError
from raynas.outcome import METRICS, STATUSES, Metric, as_number
from raynas.results import Part, collect, list_parts, read_parts, unique, united
from raynas.storage import filesystem, finite, first_line, is_object_store, list_files, make_folder, write_bytes

FAN_IN = 10  # parts of one level that become one of the next: a row is rewritten once a level, so the work a row grows with the logarithm


def checked(kind: str, row: Mapping[str, Any]) -> Any:
    """A table of one row, so that a wrong row fails where it comes from and not at the flush; what is no finite number is null.

    Raises:
        ResultsError: the row does not fit the schema.
    """
    names = SCHEMAS[kind].names
    row = {name: value for name, value in finite(row).items() if value is not None}
    wrong = [name for name in sorted(row.keys() - set(names)) if kind == "started" or as_number(row[name]) is None]
    if wrong:
        raise ResultsError(f"a row of {kind} has no column {', '.join(wrong)}; allowed: {', '.join(names)}, and numbers as metrics")
    schema = with_metrics(kind, row)
    if missing := [f.name for f in schema if not f.nullable and f.name not in row]:
        raise ResultsError(f"a row of {kind} lacks {', '.join(missing)}")
    if row.get("status", STATUSES[0]) not in STATUSES:
        raise ResultsError(f"status {row['status']!r} of a trial is not one of {', '.join(STATUSES)}")
    # pyarrow would take a number for microseconds since 1970, and a time without zone for UTC.
    times = [f.name for f in schema if f.type == TIME and f.name in row]
    if wrong := [name for name in times if not isinstance(row[name], datetime) or row[name].tzinfo is None]:
        raise ResultsError(f"{', '.join(wrong)} in a row of {kind} is not a datetime with a time zone; use datetime.now(UTC)")
    try:
        return pa.Table.from_pylist([row], schema=schema)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ResultsError(f"a row of {kind} has a value of the wrong type: {first_line(error)}") from error


def _parquet(table: Any, metrics: Mapping[str, Metric]) -> Any:
    sink = pa.BufferOutputStream()
    pq.write_table(described(table.combine_chunks(), metrics), sink)  # five times as fast as from as many chunks as rows
    return sink.getvalue()


def file_of(kind: str, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]) -> bytes:
    """A Parquet file of rows of a kind; raises ResultsError where one does not fit the schema."""
    content: bytes = _parquet(united(kind, [SCHEMAS[kind].empty_table(), *(checked(kind, row) for row in rows)]), metrics).to_pybytes()
    return content


class Rows:
    """Rows that wait to be written."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Any]] = {kind: [] for kind in SCHEMAS}
        self.going_on: dict[str, Any] = {}  # trial id -> its newest row in `started` that points to a checkpoint

    def __len__(self) -> int:
        return sum(map(len, self.lists.values())) + len(self.going_on)

    def add_started(self, row: Mapping[str, Any]) -> None:
        """A trial that starts, or one under way whose checkpoint is newer: columns of STARTED."""
        table = checked("started", row)
        if row.get("checkpoint") is None:
            self.lists["started"].append(table)
        else:
            self.going_on[row["trial_id"]] = table

    def add_report(self, row: Mapping[str, Any]) -> None:
        """A report of a trial: columns of REPORTS, and metrics. Of two reports of one trial and epoch the first counts."""
        self.lists["reports"].append(checked("reports", row))

    def add_trial(self, row: Mapping[str, Any]) -> None:
        """A trial that has ended: columns of TRIALS, and metrics."""
        self.lists["trials"].append(checked("trials", row))
        self.going_on.pop(row["trial_id"], None)

    def next(self) -> tuple[str, Any]:
        """The rows that are to be written next, as a kind and a table."""
        for kind, rows in self.lists.items():
            if rows:
                return kind, united(kind, rows)
        return "started", united("started", list(self.going_on.values()))

    def written(self, kind: str) -> None:
        """Forgets what `next` gave."""
        (self.lists[kind] or self.going_on).clear()


class RunStore:
    """Writes the tables of one run folder; one process and one thread at a time.

    Rows wait in memory until a flush. A metric that is NaN or infinite is stored as null. A store opened on a folder with results adds to
    them: this is how a run is resumed.

    Args:
        uri: the run folder.
        metrics: what is known of metrics, which is said in the files.

    Raises:
        ResultsError: (every method) a row does not fit its schema, or the storage refuses; rows not yet written stay buffered.
    """

    def __init__(self, uri: str, metrics: Mapping[str, Metric] = METRICS) -> None:
        self.fs, self.root = filesystem(uri)
        self._metrics = metrics
        self._parts_folder = f"{self.root}/parts"
        self.rows = Rows()
        self.add_started, self.add_report, self.add_trial = self.rows.add_started, self.rows.add_report, self.rows.add_trial
        make_folder(self.fs, self._parts_folder)
        try:
            for info in list_files(self.fs, self._parts_folder):
                if info.base_name.startswith(".tmp-"):  # of a writer that was killed
                    self.fs.delete_file(info.path)
            self._parts = set(list_parts(self.fs, self.root))
        except OSError as error:
            raise ResultsError(f"cannot open {uri} for writing: {first_line(error)}") from error
        self._sequence = max((part.sequence for part in self._parts), default=0)

    def flush(self) -> None:
        """Writes what is buffered: each trial's start before its reports, its reports before its end and before a newer checkpoint."""
        while self.rows:
            self.write_next(self.rows)

    def write_next(self, rows: Rows) -> None:
        """Writes those of `rows` that come next; they are not among them then."""
        kind, table = rows.next()
        self._write_part(kind, table)
        rows.written(kind)

    def merge_levels(self) -> None:
        """Merges the parts of a level where there are FAN_IN of them."""
        try:
            for kind in SCHEMAS:
                for depth in sorted({part.depth for part in self._parts}, reverse=True):
                    parts = sorted(part for part in self._parts if (part.kind, part.depth) == (kind, depth))
                    if len(parts) >= FAN_IN:
                        # None: somebody has moved it away, or the answer to its deletion was lost.
                        if tables := [table for table in read_parts(self.fs, parts) if table is not None]:
                            self._write_part(kind, unique(kind, united(kind, tables)), parts[0].sequence, depth - 1)
                        self._delete(parts)
        except OSError as error:
            raise ResultsError(f"cannot merge the parts in {self._parts_folder}: {first_line(error)}") from error

    def compact(self) -> None:
        """Merges the parts into trials.parquet and reports.parquet; trials under way stay behind as one part."""
        try:
            tables, parts = collect(self.fs, self.root)
            for kind, table in (("reports", tables.reports), ("trials", tables.trials)):  # reports first, as in a flush
                path = f"{self.root}/{kind}.parquet"
                absent = self.fs.get_file_info(path).type == pafs.FileType.NotFound
                if absent or any(part.kind == kind for part in parts):
                    self._write(path, table)
            if len(tables.started):
                self._write_part("started", tables.started)
            self._delete(parts)
        except OSError as error:
            raise ResultsError(f"cannot merge the parts in {self._parts_folder}: {first_line(error)}") from error

    def close(self) -> None:
        """Writes what is buffered and merges the parts."""
        self.flush()
        self.compact()

    def put(self, name: str, content: bytes) -> None:
        """Writes a file of the run folder."""
        path = f"{self.root}/{name}"
        if "/" in name and not is_object_store(self.fs):
            make_folder(self.fs, path.rpartition("/")[0])
        write_bytes(self.fs, path, content)

    def _write_part(self, kind: str, table: Any, sequence: int | None = None, depth: int = 0) -> None:
        self._sequence += sequence is None
        number = self._sequence if sequence is None else sequence
        level = f"-{-depth}" if depth else ""
        path = f"{self._parts_folder}/{kind}-{number:08d}-{secrets.token_hex(4)}{level}.parquet"
        self._write(path, table)
        self._parts.add(Part(kind, number, depth, path))

    def _delete(self, parts: list[Part]) -> None:
        """Oldest first: what a kill leaves are the newest parts, so that the last row of a trial is still the last."""
        for part in sorted(parts):
            with suppress(FileNotFoundError):
                self.fs.delete_file(part.path)
            self._parts.discard(part)

    def _write(self, path: str, table: Any) -> None:
        write_bytes(self.fs, path, _parquet(table, self._metrics), temporary_in=self._parts_folder)
