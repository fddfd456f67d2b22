"""A benchmark in one Parquet file. n: architectures, B: budgets (epochs), R: repeats (training runs that differ by their seed).

One row an architecture: `arch_id`, its `key`, by which rows ascend, then one column per metric, budget and repeat, such as
`valid_accuracy_e108_r0`, then whatever else the source tells about an architecture. A value that is not known is null, and a
column of which no value is known is left out. The file's metadata hold one JSON text: budgets, repeats, source, licence, ...
"""

import hashlib
import itertools
import json
import math
import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raynas.errors import ShapeError, TableError
from raynas.registry import unknown
from raynas.storage import filesystem, first_line

FORMAT = 1  # a reader refuses any other
ACCURACIES = ("valid_accuracy", "test_accuracy")  # fractions in [0, 1]
METRICS = (*ACCURACIES, "train_seconds")
DETAILS = ("train_accuracy", "halfway_valid_accuracy", "halfway_test_accuracy", "halfway_train_accuracy", "halfway_train_seconds")
ALL_METRICS = METRICS + DETAILS  # halfway: after half of the epochs of the budget
_METADATA_KEY = b"raynas"
_ROWS = 1 << 17  # rows that are encoded at once, which bounds the memory of the writer

Repeat = int | Literal["mean"]
Key = tuple[str, int, int]  # metric, budget, repeat: what a column holds


class Record(NamedTuple):
    """What a table knows of one architecture at one budget."""

    epoch: int
    valid_accuracy: float  # in [0, 1]
    test_accuracy: float | None  # in [0, 1]
    train_seconds: float | None  # of the training from its start to `epoch`, on the benchmark's machine


def _key(arch_id: str) -> int:
    return int.from_bytes(hashlib.md5(arch_id.encode(), usedforsecurity=False).digest()[:8], "big")


def _column(metric: str, budget: int, repeat: int) -> str:
    return f"{metric}_e{budget}_r{repeat}"


class Table:
    """A benchmark with the axes architecture (n), budget (B) and repeat (R). Columns are read when they are first asked for."""

    def __init__(self, schema: pa.Schema, read: Callable[[list[str]], pa.Table], origin: str) -> None:
        """`read(columns)` returns the named columns of all rows; `origin` names the table in messages. Use `open` or `build`."""
        self._read, self.origin = read, origin
        self.metadata = _parse_metadata(schema, origin)
        self.space: str = self.metadata["space"]
        self.dataset: str = self.metadata["dataset"]
        self.budgets: tuple[int, ...] = tuple(self.metadata["budgets"])  # (B,) epochs, ascending
        self.repeats: int = self.metadata["repeats"]  # R
        self.names: tuple[str, ...] = tuple(schema.names)
        self._keys: NDArray[np.uint64] = self._array("key").to_numpy()  # (n,)
        if not (self._keys[:-1] < self._keys[1:]).all():
            raise TableError(f"{origin} is damaged: its rows do not ascend by key; make it anew with `python -m raynas.convert`")
        self._extras: dict[str, pa.Array] = {}  # name -> (n,), of columns that are no metrics
        self._values: dict[tuple[str, int, Repeat], NDArray[np.float64] | None] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Table":
        """The table in the file `path`, a local path (memory-mapped) or a URI such as s3://bucket/table.parquet.

        Raises:
            TableError: there is no such file, or it is damaged, not a raynas table, or of another format version.
            ResultsError: nothing opens the scheme of the URI.
        """
        path = os.fspath(path)
        try:
            system, inner = filesystem(path)
            local = isinstance(system, pafs.LocalFileSystem)
            source = pa.memory_map(inner) if local else system.open_input_file(inner)
            file = pq.ParquetFile(source, page_checksum_verification=True)
        except FileNotFoundError as error:
            raise TableError(f"there is no table {path}; make one with `python -m raynas.convert SRC {path} --space SPACE`") from error
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{path} cannot be read as Parquet, it may be damaged or another kind of file: {first_line(error)}") from error

        def read(columns: list[str]) -> pa.Table:
            try:
                return file.read(columns=columns)
            except (pa.ArrowException, OSError) as error:
                raise TableError(f"{path} is damaged, copy or convert it anew: {first_line(error)}") from error

        return cls(file.schema_arrow, read, path)

    @classmethod
    def build(
        cls,
        *,
        space: str,
        dataset: str,
        ids: Sequence[str],
        metrics: Mapping[str, NDArray[np.floating[Any]]],
        budgets: Sequence[int],
        source: str,
        licence: str,
        sha256: str | None,
        description: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> "Table":
        """A table in memory.

        Args:
            ids: (n,) ids of the architectures, in any order.
            metrics: name in ALL_METRICS -> (n, B, R) float32 or float64, NaN where unknown; accuracies are fractions.
            budgets: (B,) epochs, ascending.
            sha256: of the file that the values come from, None where unknown.
            extra: further columns, name -> n values, kept as they are.

        Raises:
            UnknownNameError, ShapeError, TableError: a metric, a shape or a value is not allowed.
        """
        shapes = {metric: values.shape for metric, values in metrics.items()}
        repeats = next(iter(shapes.values()), (0,))[-1]
        for metric, shape in shapes.items():
            if shape != (len(ids), len(budgets), repeats):
                expected = (len(ids), len(budgets), repeats)
                raise ShapeError(f"{metric} has the shape {shape}, expected {expected}: architecture, budget, repeat")
        columns = {
            (metric, budget, r): values[:, b, r]
            for metric, values in metrics.items()
            for (b, budget), r in itertools.product(enumerate(budgets), range(repeats))
        }
        about = {"source": source, "licence": licence, "sha256": sha256, "description": description}
        return cls.from_columns(space, dataset, ids, columns, budgets, about, extra)

    @classmethod
    def from_columns(
        cls,
        space: str,
        dataset: str,
        ids: Sequence[str],
        columns: dict[Key, NDArray[np.floating[Any]]],
        budgets: Sequence[int],
        about: Mapping[str, str | None],
        extra: Mapping[str, Any] | None = None,
    ) -> "Table":
        """A table in memory from single columns. It empties `columns` on the way, so that a large table is in memory only once.

        Args:
            columns: (metric, budget, repeat) -> (n,), as in `build`; those that are not there are unknown.
            about: further metadata, those of `build`: source, licence, sha256, description.

        Raises:
            UnknownNameError, ShapeError, TableError: a metric, a shape or a value is not allowed.
        """
        extra = dict(extra or {})
        _check(ids, columns, budgets, extra)
        repeats = 1 + max(repeat for _, _, repeat in columns)
        keys = np.fromiter(map(_key, ids), dtype=np.uint64, count=len(ids))
        order = np.argsort(keys)
        keys = keys[order]
        if (keys[1:] == keys[:-1]).any():
            raise TableError(f"the ids of the architectures of {space} {dataset} are not distinct")
        rows = pa.array(order)
        arrays = {"arch_id": pa.array(ids, pa.string()).take(rows), "key": pa.array(keys)}
        for metric, budget, repeat in itertools.product(ALL_METRICS, budgets, range(repeats)):
            values = columns.pop((metric, budget, repeat), None)
            if values is not None and not np.isnan(values).all():
                arrays[_column(metric, budget, repeat)] = pa.array(values[order], from_pandas=True)  # NaN becomes null
        arrays |= {name: pa.table({name: column})[name].take(rows) for name, column in extra.items()}
        metadata = {"format": FORMAT, "space": space, "dataset": dataset, "budgets": [int(b) for b in budgets], "repeats": repeats, **about}
        schema_metadata = {_METADATA_KEY: json.dumps(metadata)}
        table = pa.table(arrays).replace_schema_metadata(schema_metadata)
        return cls(table.schema, table.select, f"the table of {space} {dataset}")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the table to a local path or URI; a reader sees the whole file or none.

        Raises:
            TableError: the file cannot be written.
            ResultsError: nothing opens the scheme of the URI.
        """
        path = os.fspath(path)
        table = self._read(list(self.names)).replace_schema_metadata({_METADATA_KEY: json.dumps(self.metadata)})
        try:
            system, inner = filesystem(path)
            system.create_dir(posixpath.dirname(inner), recursive=True)
            unfinished = f"{inner}.{os.getpid()}.unfinished"
            try:
                pq.write_table(table, unfinished, filesystem=system, compression="zstd", write_page_checksum=True, row_group_size=_ROWS)
                system.move(unfinished, inner)
            finally:
                if system.get_file_info(unfinished).type != pafs.FileType.NotFound:
                    system.delete_file(unfinished)
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"the table cannot be written to {path}: {first_line(error)}") from error

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, arch_id: object) -> bool:
        return isinstance(arch_id, str) and self.row(arch_id) is not None

    @property
    def ids(self) -> list[str]:
        """(n,) ids of all architectures, in the order of the rows."""
        return self.extra("arch_id")

    def extra(self, name: str) -> list[Any]:
        """(n,) values of a further column such as `operations`.

        Raises:
            UnknownNameError: the table has no such column.
        """
        values: list[Any] = self._extra(name).to_pylist()
        return values

    def row(self, arch_id: str) -> int | None:
        """Position of an architecture in `ids`, `values` and `extra`, None where the table does not have it; takes microseconds."""
        key = _key(arch_id)
        row = int(self._keys.searchsorted(np.uint64(key)))  # a Python int would make numpy compare as float64
        return row if row < len(self._keys) and self._extra("arch_id")[row].as_py() == arch_id else None

    def at(self, row: int, metric: str, budget: int, repeat: Repeat = "mean") -> float | None:
        """One value, None where it is unknown. `metric` may be any of ALL_METRICS; errors as `values`."""
        if metric not in ALL_METRICS:
            raise unknown("metric", metric, ALL_METRICS)
        return _at(self._cached(metric, budget, repeat), row)

    def extra_at(self, row: int, name: str) -> Any:
        """One value of a further column; errors as `extra`."""
        return self._extra(name)[row].as_py()

    def query(self, arch_id: str, budget: int | None = None, repeat: Repeat = "mean") -> Record:
        """What the table knows of one architecture; takes microseconds.

        Args:
            budget: epochs, None for the largest budget.
            repeat: one of the R training runs, or "mean" over those that the table has of this architecture.

        Raises:
            TableError: the table does not have the architecture, the budget or the repeat.
        """
        budget = self.budgets[-1] if budget is None else budget
        valid, test, seconds = (self._cached(metric, budget, repeat) for metric in METRICS)
        row = self.row(arch_id)
        if row is None:
            raise TableError(f"architecture {arch_id} is not among the {len(self):,} of {self.origin} ({self.space}, {self.dataset})")
        accuracy = _at(valid, row)
        if accuracy is None:
            raise self._lacks(f"valid_accuracy of {arch_id}", budget, repeat)
        return Record(budget, accuracy, _at(test, row), _at(seconds, row))

    def known(self, budgets: Sequence[int] | None = None, repeat: Repeat = "mean") -> NDArray[np.bool_]:
        """(n,) whether there is a valid_accuracy at each of `budgets` (None: at all that the table has), in the order of `ids`.

        Raises:
            TableError: the table does not have a budget or the repeat.
        """
        found = np.ones(len(self), dtype=bool)
        for budget in self.budgets if budgets is None else budgets:
            values = self._cached("valid_accuracy", budget, repeat)
            found &= False if values is None else ~np.isnan(values)
        return found

    def best(self, metric: str = "valid_accuracy", budget: int | None = None, repeat: Repeat = "mean") -> tuple[str, float]:
        """Id and value of the architecture with the highest accuracy; of equals the first row.

        Raises:
            UnknownNameError, TableError: `metric` is no accuracy, or the table does not have it at this budget and repeat.
        """
        if metric not in ACCURACIES:
            raise unknown("accuracy", metric, ACCURACIES)
        values = self.values(metric, budget, repeat)
        row = int(np.nanargmax(values))
        return self.extra_at(row, "arch_id"), float(values[row])

    def values(self, metric: str, budget: int | None = None, repeat: Repeat = "mean") -> NDArray[np.float64]:
        """(n,) one metric of all architectures in the order of `ids`, NaN where unknown. A shared array: do not write to it.

        Raises:
            UnknownNameError, TableError: no such metric, or the table does not have it at this budget and repeat.
        """
        if metric not in ALL_METRICS:
            raise unknown("metric", metric, ALL_METRICS)
        budget = self.budgets[-1] if budget is None else budget
        values = self._cached(metric, budget, repeat)
        if values is None:
            raise self._lacks(metric, budget, repeat)
        return values

    def _lacks(self, what: str, budget: int, repeat: Repeat) -> TableError:
        present = ", ".join(name for name in self.names if name.startswith(ALL_METRICS))
        return TableError(f"{self.origin} has no {what} at {budget} epochs, repeat {repeat}; its columns are {present}")

    def _extra(self, name: str) -> pa.Array:
        if name not in self.names:
            raise unknown(f"column of {self.origin}", name, self.names)
        if name not in self._extras:
            self._extras[name] = self._array(name)
        return self._extras[name]

    def _array(self, name: str) -> pa.Array:
        return self._read([name]).column(0).combine_chunks()

    def _cached(self, metric: str, budget: int, repeat: Repeat) -> NDArray[np.float64] | None:
        key = (metric, budget, repeat)
        if key not in self._values:
            self._values[key] = self._load(metric, budget, repeat)
        return self._values[key]

    def _load(self, metric: str, budget: int, repeat: Repeat) -> NDArray[np.float64] | None:
        """(n,) a metric, NaN where unknown, or None where all of it is unknown. Checks budget and repeat."""
        if budget not in self.budgets:
            raise TableError(f"{self.origin} has no budget of {budget} epochs; it has {', '.join(map(str, self.budgets))}")
        if repeat != "mean" and repeat not in range(self.repeats):
            raise TableError(f"{self.origin} has no repeat {repeat}; it has 0 to {self.repeats - 1} and 'mean'")
        repeats = range(self.repeats) if repeat == "mean" else (repeat,)
        names = [name for name in (_column(metric, budget, r) for r in repeats) if name in self.names]
        columns = [np.asarray(self._array(name).to_numpy(zero_copy_only=False), dtype=np.float64) for name in names]
        values = _mean(columns) if columns else np.full(len(self), np.nan)
        return None if np.isnan(values).all() else values


def _mean(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(n,) mean over the columns that are not NaN, NaN where all are."""
    stacked = np.stack(columns)
    known = ~np.isnan(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    mean = np.full(len(total), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _at(values: NDArray[np.float64] | None, row: int) -> float | None:
    """The value of a row, None where it is not known."""
    value = math.nan if values is None else values.item(row)
    return None if math.isnan(value) else value


def _parse_metadata(schema: pa.Schema, origin: str) -> dict[str, Any]:
    text = (schema.metadata or {}).get(_METADATA_KEY)
    if text is None:
        raise TableError(f"{origin} is Parquet but not a raynas table; convert it with `python -m raynas.convert`")
    try:
        metadata = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise TableError(f"{origin} is damaged: its metadata are not a JSON object") from error
    if metadata.get("format") != FORMAT:
        raise TableError(f"{origin} has the table format {metadata.get('format')!r}, this raynas reads {FORMAT}; convert it anew")
    missing = {"space", "dataset", "budgets", "repeats"} - metadata.keys() | {"arch_id", "key"} - set(schema.names)
    if missing or schema.field("key").type != pa.uint64():
        raise TableError(f"{origin} is damaged: {', '.join(sorted(missing)) or 'key'} is missing or of another type; convert it anew")
    return metadata


def _check(ids: Sequence[str], columns: Mapping[Key, NDArray[np.floating[Any]]], budgets: Sequence[int], extra: Mapping[str, Any]) -> None:
    """Raises where what a table is built from does not fit together."""
    for (metric, budget, repeat), values in columns.items():
        if metric not in ALL_METRICS:
            raise unknown("metric", metric, ALL_METRICS)
        if len(values) != len(ids) or budget not in budgets or repeat < 0:
            raise ShapeError(f"{_column(metric, budget, repeat)} has {len(values)} values; there are {len(ids)} ids, and budgets {budgets}")
        highest = 1.0 if metric.endswith("accuracy") else np.inf
        if not (np.isnan(values) | ((values >= 0) & (values <= highest))).all():
            raise TableError(f"{metric} has values outside [0, {highest:g}]; accuracies are fractions, NaN is unknown")
    if len(ids) == 0 or all(metric != "valid_accuracy" for metric, _, _ in columns):
        raise TableError("a table needs at least one architecture and valid_accuracy")
    if len(budgets) == 0 or any(budget <= last for last, budget in itertools.pairwise([0, *budgets])):
        raise TableError(f"budgets are positive epochs in ascending order, not {list(budgets)}")
    for name, column in extra.items():
        if len(column) != len(ids):
            raise ShapeError(f"the column {name} has {len(column)} values, expected one for each of {len(ids)} architectures")
        if name in ("arch_id", "key") or name.startswith(ALL_METRICS):
            raise TableError(f"the name {name} of a further column is one of the table's own")
