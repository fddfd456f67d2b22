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
import posixpath
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raynas.errors import TableError
from raynas.storage import filesystem
from raynas.tables.table import DETAILS, METRICS, Key, Table

ONLY_108, FULL = "nasbench_only108.tfrecord", "nasbench_full.tfrecord"
PUBLISHED = {  # SHA256 -> name
    "4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1": ONLY_108,
    "3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c": FULL,
}
VALUES = (*METRICS, *DETAILS)

_BLOCK = 1 << 20  # bytes read at once
_BATCH = 1024  # trainings for the same budget and repeat that are decoded at once
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_DOUBLE = struct.Struct("<d")
_NO_METRICS = "its metrics are no ModelMetrics message"
_ORDER = [(2, 4), (2, 5), (2, 2), (2, 3), (1, 4), (1, 5), (1, 3), (1, 2)]  # of VALUES: which evaluation, which of its fields

Report = Callable[[int, int | None], None]


class Run(NamedTuple):
    """One record: one training of one cell."""

    number: int  # in the file, the first being 1
    module_hash: str
    epochs: int
    adjacency: str  # V * V characters 0 or 1, row-major
    operations: str  # V names, joined by commas
    metrics: bytes  # a ModelMetrics message


def read_runs(stream: BinaryIO, name: str) -> Iterator[Run]:
    """The records of the file `name`, open as `stream`, one after the other.

    Raises:
        TableError: the file is cut off or damaged; the message says at which record, the first being 1.
    """
    number, crc, parse = 0, google_crc32c.value, json.JSONDecoder().raw_decode
    lengths: dict[bytes, int] = {}  # of the headers that were found correct, of which there are a few dozen
    while header := stream.read(12):
        number += 1
        length = lengths.get(header)
        if length is None:
            length = lengths[header] = _length(header, name, number)
        payload = stream.read(length + 4)
        if len(payload) < length + 4:
            raise _cut_off(name, number)
        content = payload[:-4]
        if _masked(crc(content)) != _CHECKSUM.unpack_from(payload, length)[0]:
            raise TableError(f"{name} is damaged at record {number}: its checksum does not match; fetch the file anew")
        try:
            text = content.decode()
            (module_hash, epochs, adjacency, operations, metrics), end = parse(text)
            if type(module_hash) is not str or type(epochs) is not int or end < len(text):
                raise TypeError
            yield Run(number, module_hash, epochs, adjacency, operations, binascii.a2b_base64(metrics))
        except (ValueError, TypeError) as error:
            problem = "it is not a list of hash, epochs, adjacency, operations and metrics in base64"
            raise _malformed(name, number, problem) from error


def _length(header: bytes, name: str, number: int) -> int:
    """Of the record that follows."""
    if len(header) < 12:
        raise _cut_off(name, number)
    length, check = _HEADER.unpack(header)
    if _masked(google_crc32c.value(header[:8])) != check:
        problem = "is not a TFRecord file" if number == 1 else f"is damaged at record {number}"
        raise TableError(f"{name} {problem}: the checksum of a record's length does not match; fetch the file anew")
    return int(length)


def _masked(crc: int) -> int:
    """The checksum as stored: rotated right by 15 bits, plus a constant (tensorflow/core/lib/hash/crc32c.h)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _cut_off(name: str, number: int) -> TableError:
    return TableError(f"{name} is cut off in record {number}; fetch the rest of the file")


def _malformed(name: str, number: int, problem: object) -> TableError:
    return TableError(f"{name} is damaged, or not a file of NAS-Bench-101, at record {number}: {problem}")


def parse_metrics(message: bytes) -> tuple[int, list[float]]:
    """Trainable parameters and the 8 VALUES of a ModelMetrics message; a number that is absent is 0, as in protocol buffers.

    Raises:
        ValueError: it is not such a message, or has other than three evaluations.
    """
    parameters, evaluations = 0, []
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            evaluations.append({field: part for field, part in _fields(value) if isinstance(part, float)})
        elif number == 2 and isinstance(value, int):
            parameters = value
    if len(evaluations) != 3 or parameters >= 1 << 31:
        raise ValueError(
            f"its metrics have {len(evaluations)} evaluations and {parameters} parameters; expected are 3, and fewer than 2^31"
        )
    return parameters, [evaluations[which].get(field, 0.0) for which, field in _ORDER]


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value of each field; a number of 4 bytes, which these messages do not have, comes as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        length, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(message)), at)
        part, at = message[at : at + length], at + length
        if at > len(message):
            raise ValueError(_NO_METRICS)
        yield key >> 3, _DOUBLE.unpack(part)[0] if kind == 1 else part


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the least significant first, and where it ends."""
    value = 0
    for i, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError(_NO_METRICS)


# Almost all messages have the same layout: three evaluations of 47 bytes (tag and length, then five times tag and number), parameters
# of 3 or 4 bytes, total time. Many of these are decoded at once, which is 10 times as fast as field by field.
_USUAL = 3 * 47  # where the tag of the parameters is
_USUAL_LENGTHS = range(_USUAL + 1 + 1 + 9, _USUAL + 1 + 4 + 9 + 1)
_EVALUATION_TAGS = [(0, 10), (1, 45), *((2 + 9 * k, 9 + 8 * k) for k in range(5))]  # place, value
_TAGS = [*((47 * e + place, tag) for e in range(3) for place, tag in _EVALUATION_TAGS), (_USUAL, 16), (-9, 25)]
_PLACES = np.array([[47 * e + 9 * field - 6 + byte for byte in range(8)] for e, field in _ORDER]).ravel()  # of the bytes of VALUES


def decode(messages: Sequence[bytes], numbers: Sequence[int], name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Trainable parameters (m,) and VALUES (m, 8) of m ModelMetrics messages, from the records `numbers` of the file `name`.

    Raises:
        TableError: metrics are malformed; the message says at which record.
    """
    parameters, values = np.empty(len(messages), dtype=np.int64), np.empty((len(messages), len(VALUES)))
    lengths = np.array([len(message) for message in messages])
    for length in sorted(set(lengths.tolist())):
        (where,) = np.nonzero(lengths == length)
        if length in _USUAL_LENGTHS:
            block = np.frombuffer(b"".join([messages[i] for i in where.tolist()]), dtype=np.uint8).reshape(-1, length)
            usual = _is_usual(block)
            parameters[where[usual]] = (block[usual, _USUAL + 1 : -9] & 0x7F) @ (1 << 7 * np.arange(length - _USUAL - 10))
            values[where[usual]] = block[usual][:, _PLACES].copy().view("<f8")
            where = where[~usual]
        for i in where.tolist():
            try:
                parameters[i], values[i] = parse_metrics(messages[i])
            except ValueError as error:
                raise _malformed(name, numbers[i], error) from error
    return parameters, values


def _is_usual(block: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(m,) whether each row, of one of the _USUAL_LENGTHS, has the usual layout."""
    places, tags = np.array(_TAGS).T
    more = block[:, _USUAL + 1 : -9] >= 0x80  # bytes of the parameters that another one follows
    usual: NDArray[np.bool_] = (block[:, places] == tags).all(axis=1) & more[:, :-1].all(axis=1) & ~more[:, -1]
    return usual


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
            self._resize(max(int(rows.max()) + 1, len(self._values) * 9 // 8))
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
        values, self._values = self._values, np.empty(0, dtype=np.float32)
        return values


class _Repeat:
    """The runs of one budget and repeat: a column for each of VALUES, and the messages that wait to be decoded."""

    def __init__(self) -> None:
        self.columns = [_Column() for _ in VALUES]
        self.rows: list[int] = []
        self.messages: list[bytes] = []
        self.numbers: list[int] = []  # of the records


class _Cells:
    """What the records of the file `name` say, by cell (row) and by budget and repeat."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, int] = {}  # module hash -> row
        self.repeats: dict[int, list[_Repeat]] = {}  # by epochs
        self._seen: dict[int, array[int]] = {}  # by epochs: runs of each row so far
        self._parameters = array("i")
        self._adjacency, self._operations = array("i"), array("i")  # positions in _texts, as many cells share a text
        self._texts: dict[str, int] = {}

    def add(self, run: Run) -> None:
        row = self.rows.get(run.module_hash)
        if row is None:
            row = self._new(run)
        seen = self._seen.setdefault(run.epochs, array("i"))
        if row >= len(seen):
            seen.extend([0] * (row + 1 - len(seen)))
        repeats = self.repeats.setdefault(run.epochs, [])
        if seen[row] == len(repeats):
            repeats.append(_Repeat())
        repeat = repeats[seen[row]]
        seen[row] += 1
        repeat.rows.append(row)
        repeat.messages.append(run.metrics)
        repeat.numbers.append(run.number)
        if len(repeat.rows) == _BATCH:
            self._flush(repeat)

    def _new(self, run: Run) -> int:
        if not isinstance(run.adjacency, str) or not isinstance(run.operations, str):
            raise _malformed(self.name, run.number, f"{run.adjacency!r} and {run.operations!r} are no adjacency and operations")
        if len(run.adjacency) != (run.operations.count(",") + 1) ** 2 or run.adjacency.strip("01"):
            raise _malformed(self.name, run.number, f"for the operations {run.operations} the adjacency cannot be {run.adjacency!r}")
        self._adjacency.append(self._texts.setdefault(run.adjacency, len(self._texts)))
        self._operations.append(self._texts.setdefault(run.operations, len(self._texts)))
        self._parameters.append(0)
        return self.rows.setdefault(run.module_hash, len(self.rows))

    def _flush(self, repeat: _Repeat) -> None:
        parameters, values = decode(repeat.messages, repeat.numbers, self.name)
        rows = np.array(repeat.rows, dtype=np.int64)
        np.asarray(self._parameters)[rows] = parameters
        for column, known in zip(repeat.columns, values.T, strict=True):
            column.put(rows, known)
        repeat.rows, repeat.messages, repeat.numbers = [], [], []

    def columns(self) -> dict[Key, NDArray[np.floating[Any]]]:
        """All columns; they are no longer here afterwards."""
        columns = {}
        for epochs, repeats in self.repeats.items():
            for r, repeat in enumerate(repeats):
                if repeat.rows:
                    self._flush(repeat)
                for name, column in zip(VALUES, repeat.columns, strict=True):
                    columns[name, epochs, r] = column.take(len(self.rows))
        return columns

    def extra(self) -> dict[str, pa.Array]:
        """The columns that are no metrics."""
        texts = pa.array(list(self._texts))
        return {
            "adjacency": pa.DictionaryArray.from_arrays(np.asarray(self._adjacency), texts),
            "operations": pa.DictionaryArray.from_arrays(np.asarray(self._operations), texts),
            "trainable_parameters": pa.array(np.asarray(self._parameters)),
        }


class _Digested(io.RawIOBase):
    """A stream that is read once: its SHA256, and how far it was read, told to `report`."""

    def __init__(self, stream: Any, size: int | None, report: Report) -> None:
        self._stream, self._size, self._report, self.digest, self._read = stream, size, report, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self.digest.update(content)
        self._read += len(content)
        self._report(self._read, self._size)
        return len(content)


def read_table(path: str, dataset: str = "cifar10", report: Report = lambda done, size: None) -> Table:
    """The published file at `path` (or a URI) as a table with all its budgets and repeats, in the order of its records.

    Besides VALUES the table holds `adjacency`, `operations` and `trainable_parameters`. The hashes in the file are taken as they are.
    Takes memory for the values, not for the file.

    Args:
        report: called now and then with the bytes that were read, and those of the file.

    Raises:
        TableError: there is no such file, it is cut off or damaged; the message says at which record.
    """
    try:
        system, inner = filesystem(path)
        with system.open_input_stream(inner) as source:
            digested = _Digested(source, system.get_file_info(inner).size, report)
            cells = _Cells(path)
            for run in read_runs(io.BufferedReader(digested, _BLOCK), path):
                cells.add(run)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from error
    if not cells.rows:
        raise TableError(f"{path} is empty")
    sha256 = digested.digest.hexdigest()
    published = PUBLISHED.get(sha256)
    about = {
        "source": "https://storage.googleapis.com/nasbench/" + published if published else posixpath.basename(path),
        "licence": "Apache-2.0" if published else "not stated",
        "sha256": sha256,
        "description": "NAS-Bench-101 (Ying et al. 2019, https://arxiv.org/abs/1902.09635)" + (f", {published}" if published else ""),
    }
    ids, columns, budgets, extra = list(cells.rows), cells.columns(), sorted(cells.repeats), cells.extra()
    del cells  # makes room for the table
    return Table.from_columns("nasbench101", dataset, ids, columns, budgets, about, extra)
