"""The published files of NAS-Bench-101 (nasbench_only108.tfrecord, nasbench_full.tfrecord), read without TensorFlow.

A file is a sequence of TFRecords: length (uint64), its masked CRC32C, so many bytes, their masked CRC32C, all little-endian
(https://www.tensorflow.org/tutorials/load_data/tfrecord). Each holds a JSON list: module hash, epochs, adjacency (V * V characters 0
or 1, row-major), operations (joined by commas), and a ModelMetrics message in base64 (nasbench/protos/model_metrics.proto):

    message ModelMetrics   { repeated EvaluationData evaluation_data = 1; optional int32 trainable_parameters = 2;
                             optional double total_time = 3; }
    message EvaluationData { optional double current_epoch = 1; optional double training_time = 2; optional double train_accuracy = 3;
                             optional double validation_accuracy = 4; optional double test_accuracy = 5;
                             optional string checkpoint_path = 6; }

The three evaluations are those before, halfway through and after training. Records of one cell and budget are its repeats.
"""

import binascii
import hashlib
import io
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raynas.errors import TableError
from raynas.tables.table import DETAILS, METRICS, Key, Table, filesystem

PUBLISHED = {  # SHA256 -> name
    "4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1": "nasbench_only108.tfrecord",
    "3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c": "nasbench_full.tfrecord",
}
VALUES = (*METRICS, *DETAILS)  # the order of `Run.values`

_BLOCK = 1 << 20  # bytes read at once
_BATCH = 4096  # runs of one budget and repeat that are stored at once
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_DOUBLE = struct.Struct("<d")
# Almost all messages have this layout: three evaluations of 45 bytes with all five numbers and no path, then the rest.
_EVALUATION = (b"\n-\t", b"\x11", b"\x19", b"!", b")")  # what stands before each number
_USUAL = struct.Struct("<" + 3 * "3sd1sd1sd1sd1sd")
_USUAL_TAGS = 3 * _EVALUATION


class Run(NamedTuple):
    """One record: one training of one cell."""

    module_hash: str
    epochs: int
    adjacency: str
    operations: str
    parameters: int
    values: tuple[float, ...]  # (8,) in the order of VALUES; accuracies in [0, 1], times in seconds, NaN where unknown


def read_runs(stream: BinaryIO, name: str) -> Iterator[Run]:
    """The records of the file `name`, open as `stream`, one after the other.

    Raises:
        TableError: the file is cut off or damaged; the message says at which record, the first being 1.
    """
    for number, payload in enumerate(_payloads(stream, name), start=1):
        try:
            yield _run(payload)
        except (ValueError, TypeError, IndexError) as error:
            raise TableError(f"{name} is not a NAS-Bench-101 file or is damaged at record {number}: {error}") from error


def _payloads(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The bytes of each record, checksums verified."""
    number, crc = 0, google_crc32c.value
    while header := stream.read(12):
        number += 1
        if len(header) == 12:
            length, check = _HEADER.unpack(header)
            if _masked(crc(header[:8])) != check:
                problem = "is not a TFRecord file" if number == 1 else f"is damaged at record {number}"
                raise TableError(f"{name} {problem}: the checksum of a record's length does not match; fetch the file anew")
            payload = stream.read(length + 4)
        if len(header) < 12 or len(payload) < length + 4:
            raise TableError(f"{name} is cut off in record {number}; fetch the rest of the file")
        content = payload[:-4]
        if _masked(crc(content)) != _CHECKSUM.unpack_from(payload, length)[0]:
            raise TableError(f"{name} is damaged at record {number}: its checksum does not match; fetch the file anew")
        yield content


def _masked(crc: int) -> int:
    """The checksum as stored: rotated right by 15 bits, plus a constant (tensorflow/core/lib/hash/crc32c.h)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _run(payload: bytes) -> Run:
    module_hash, epochs, adjacency, operations, metrics = json.loads(payload.decode())
    if type(epochs) is not int or epochs < 1 or not isinstance(module_hash, str):
        raise ValueError(f"a hash and a number of epochs were expected, not {module_hash!r} and {epochs!r}")
    return Run(module_hash, epochs, adjacency, operations, *parse_metrics(binascii.a2b_base64(metrics)))


def parse_metrics(message: bytes) -> tuple[int, tuple[float, ...]]:
    """Trainable parameters and the 8 VALUES of a ModelMetrics message; a number that is absent is 0, as in protocol buffers.

    Raises:
        ValueError: it is not such a message, or has other than three evaluations.
    """
    if len(message) > _USUAL.size:
        parts = _USUAL.unpack_from(message)
        if parts[::2] == _USUAL_TAGS:
            numbers, parameters = parts[1::2], _usual_parameters(message)
            if parameters is not None:
                return parameters, _values(numbers[5:10], numbers[10:])
    evaluations, parameters = [], 0
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            fields = {key: part for key, part in _fields(value) if isinstance(part, float)}
            evaluations.append(tuple(fields.get(key, 0.0) for key in range(1, 6)))
        elif number == 2 and isinstance(value, int):
            parameters = value
    if len(evaluations) != 3:
        raise ValueError(f"it has {len(evaluations)} evaluations, expected three")
    return parameters, _values(*evaluations[1:])


def _usual_parameters(message: bytes) -> int | None:
    """The parameters where the message ends with these and the total time; None where it does not."""
    tail = message[_USUAL.size :]
    if tail[0] != 0x10 or len(tail) < 11 or tail[-9] != 0x19:
        return None
    value, end = _varint(tail, 1)
    return value if end == len(tail) - 9 else None


def _values(half: tuple[float, ...], final: tuple[float, ...]) -> tuple[float, ...]:
    """VALUES from the five numbers of two evaluations."""
    _, half_seconds, half_train, half_valid, half_test = half
    _, seconds, train, valid, test = final
    return valid, test, seconds, train, half_valid, half_test, half_train, half_seconds


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value of each field; 4-byte numbers, which the messages here do not have, as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, value = key & 7, b""
        if kind == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        length, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(message) + 1), at)
        value, at = message[at : at + length], at + length
        if at > len(message):
            raise ValueError("its metrics are no ModelMetrics message")
        yield key >> 3, _DOUBLE.unpack(value)[0] if kind == 1 else value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the least significant first, and where it ends."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return value | message[at] << shift, at + 1


class _Column:
    """(n,) values that grow as rows are written, NaN where unknown: float32 as long as that holds all exactly, as it does in the
    published files, which keeps the full one in 200 MB; else float64.
    """

    def __init__(self) -> None:
        self._values = np.full(0, np.nan, dtype=np.float32)

    def put(self, rows: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        if np.isnan(values).all():
            return
        if rows.max() >= len(self._values):
            self._resize(max(int(rows.max()) + 1, len(self._values) * 5 // 4))
        if self._values.dtype == np.float32:
            with np.errstate(over="ignore"):
                short = values.astype(np.float32)
            if not np.array_equal(short, values, equal_nan=True):
                self._values = self._values.astype(np.float64)
        self._values[rows] = values

    def _resize(self, size: int) -> None:
        grown = np.full(size, np.nan, dtype=self._values.dtype)
        grown[: len(self._values)] = self._values[:size]
        self._values = grown

    def take(self, size: int) -> NDArray[np.floating[Any]]:
        """The values of `size` rows; the column is empty afterwards."""
        if len(self._values) != size:
            self._resize(size)
        values, self._values = self._values, self._values[:0]
        return values


class _Repeat:
    """The runs of one budget and repeat: a column for each of VALUES, and those that wait to be written."""

    def __init__(self) -> None:
        self.columns = [_Column() for _ in VALUES]
        self._rows: list[int] = []
        self._waiting: list[tuple[float, ...]] = []

    def add(self, row: int, values: tuple[float, ...]) -> None:
        self._rows.append(row)
        self._waiting.append(values)
        if len(self._rows) == _BATCH:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            rows = np.array(self._rows)
            for column, values in zip(self.columns, np.array(self._waiting).T, strict=True):
                column.put(rows, values)
            self._rows, self._waiting = [], []


class _Cells:
    """What the records say, by cell (row) and by budget and repeat."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}  # module hash -> row
        self.adjacency: list[str] = []
        self.operations: list[str] = []
        self.parameters: list[int] = []
        self.repeats: dict[int, list[_Repeat]] = {}  # by epochs
        self._seen: dict[int, list[int]] = {}  # by epochs: runs of each row so far
        self._texts: dict[str, str] = {}  # many cells share a text, which is kept once

    def add(self, run: Run) -> None:
        row = self.rows.get(run.module_hash)
        if row is None:
            row = self._new(run)
        seen = self._seen.setdefault(run.epochs, [])
        if row >= len(seen):
            seen.extend([0] * (row + 1 - len(seen)))
        repeats = self.repeats.setdefault(run.epochs, [])
        if seen[row] == len(repeats):
            repeats.append(_Repeat())
        repeats[seen[row]].add(row, run.values)
        seen[row] += 1

    def _new(self, run: Run) -> int:
        vertices = run.operations.count(",") + 1
        if len(run.adjacency) != vertices**2 or run.adjacency.strip("01"):
            raise ValueError(f"for the operations {run.operations} the adjacency cannot be {run.adjacency!r}")
        self.adjacency.append(self._texts.setdefault(run.adjacency, run.adjacency))
        self.operations.append(self._texts.setdefault(run.operations, run.operations))
        self.parameters.append(run.parameters)
        return self.rows.setdefault(run.module_hash, len(self.rows))

    def columns(self) -> dict[Key, NDArray[np.floating[Any]]]:
        """All columns; they are no longer here afterwards."""
        columns = {}
        for epochs, repeats in self.repeats.items():
            for r, repeat in enumerate(repeats):
                repeat.flush()
                for name, column in zip(VALUES, repeat.columns, strict=True):
                    columns[name, epochs, r] = column.take(len(self.rows))
        return columns


class _Digested(io.RawIOBase):
    """A stream that is read once: its SHA256, and how far it was read, told to `report`."""

    def __init__(self, stream: Any, report: Callable[[int], None]) -> None:
        self._stream, self._report, self.digest, self._read = stream, report, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self.digest.update(content)
        self._read += len(content)
        self._report(self._read)
        return len(content)


def read_table(path: str, dataset: str = "cifar10", report: Callable[[int], None] = lambda done: None) -> Table:
    """The published file at `path` (or a URI) as a table with all its budgets and repeats, in the order of its records.

    Besides VALUES the table holds `adjacency`, `operations` and `trainable_parameters`. The hashes in the file are taken as they are.
    Takes memory for the values, not for the file.

    Args:
        report: called now and then with the number of bytes that were read.

    Raises:
        TableError: there is no such file, it is cut off or damaged; the message says at which record.
    """
    try:
        system, inner = filesystem(path)
        with system.open_input_stream(inner) as source:
            digested = _Digested(source, report)
            cells = _cells(io.BufferedReader(digested, _BLOCK), path)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from error
    if not cells.rows:
        raise TableError(f"{path} is empty")
    sha256 = digested.digest.hexdigest()
    published = PUBLISHED.get(sha256)
    about = {
        "source": "https://storage.googleapis.com/nasbench/" + published if published else f"{path}, in the format of NAS-Bench-101",
        "licence": "Apache-2.0" if published else "not stated",
        "sha256": sha256,
        "description": "NAS-Bench-101 (Ying et al. 2019, https://arxiv.org/abs/1902.09635)" + (f", {published}" if published else ""),
    }
    extra = {
        "adjacency": cells.adjacency,
        "operations": cells.operations,
        "trainable_parameters": cells.parameters,
    }
    return Table.from_columns("nasbench101", dataset, list(cells.rows), cells.columns(), sorted(cells.repeats), about, extra)


def _cells(stream: Any, name: str) -> _Cells:
    cells = _Cells()
    for number, run in enumerate(read_runs(stream, name), start=1):
        try:
            cells.add(run)
        except (ValueError, TypeError, AttributeError) as error:
            raise TableError(f"{name} is damaged at record {number}: {error}") from error
    return cells
