"""The writer of a run folder's tables."""

import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raynas.errors import ResultsError
from raynas.outcome import STATUSES, as_number
from raynas.results import SCHEMAS, TIME, collect, kind_of, list_parts, united, with_metrics
from raynas.storage import filesystem, finite, first_line, make_folder, write_bytes

MAX_PARTS = 100  # more part files than this are merged


def _checked(kind: str, row: Mapping[str, Any]) -> Any:
    """A table of one row, so that a wrong row fails where it comes from and not at the flush; what is no finite number is null."""
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


class RunStore:
    """Writes the tables of one run folder; one process and one thread at a time.

    Rows wait in memory until a flush. A metric that is NaN or infinite is stored as null. A store opened on a folder with results adds to
    them: this is how a run is resumed.

    Raises:
        ResultsError: (every method) a row does not fit its schema, or the storage refuses; rows not yet written stay buffered.
    """

    def __init__(self, uri: str) -> None:
        self._fs, self._root = filesystem(uri)
        self._parts_folder = f"{self._root}/parts"
        self._rows: dict[str, list[Any]] = {kind: [] for kind in SCHEMAS}
        make_folder(self._fs, self._parts_folder)
        try:
            for info in self._fs.get_file_info(pafs.FileSelector(self._parts_folder)):
                if info.base_name.startswith(".tmp-"):  # of a writer that was killed
                    self._fs.delete_file(info.path)
            parts = list_parts(self._fs, self._root)
        except OSError as error:
            raise ResultsError(f"cannot open {uri} for writing: {first_line(error)}") from error
        self._count = len(parts)
        self._sequence = max((int(path.rpartition("/")[2].split("-")[1]) for path in parts), default=0)
        self._flushed = time.monotonic()

    def add_started(self, row: Mapping[str, Any]) -> None:
        """A trial that starts, or one under way whose checkpoint is newer: columns of STARTED."""
        self._rows["started"].append(_checked("started", row))

    def add_report(self, row: Mapping[str, Any]) -> None:
        """A report of a trial: columns of REPORTS, and metrics. Of two reports of one trial and epoch the first counts."""
        self._rows["reports"].append(_checked("reports", row))

    def add_trial(self, row: Mapping[str, Any]) -> None:
        """A trial that has ended: columns of TRIALS, and metrics."""
        self._rows["trials"].append(_checked("trials", row))

    def flush(self) -> None:
        """Writes what is buffered; merges the parts when there are more than MAX_PARTS."""
        for kind, rows in self._rows.items():
            if rows:
                self._write_part(kind, united(kind, rows))
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
            tables, parts = collect(self._fs, self._root)
            for kind, table in (("reports", tables.reports), ("trials", tables.trials)):  # reports first, as in a flush
                path = f"{self._root}/{kind}.parquet"
                absent = self._fs.get_file_info(path).type == pafs.FileType.NotFound
                if absent or any(kind_of(part) == kind for part in parts):
                    self._write(path, table)
            if len(tables.started):
                self._write_part("started", tables.started)
            # Oldest first: what a kill leaves are the newest parts, so that the last row of a trial is still the last.
            for part in parts:
                self._fs.delete_file(part)
        except OSError as error:
            raise ResultsError(f"cannot merge the parts in {self._parts_folder}: {first_line(error)}") from error
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
