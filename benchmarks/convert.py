"""Measures the reader of the published NAS-Bench-101 files against a plain one with the official protocol buffers runtime.

    python benchmarks/convert.py [--cells N] [--budgets 4,12,36,108] [SAMPLE.tfrecord]

Writes a file with the sample's records, again and again under other module hashes, into a temporary folder; reads it with
`raynas.tables.tfrecord.read_table` and, one record after the other, as the loop of the official API does (which checks no checksums
here): into dicts, with the runtime written in Python, as installed with TensorFlow 1.x, and with the one written in C. Prints seconds,
records a second, the ratios, and the most memory that a process which only converts the file has held. Ratios are of processor time.
"""

import argparse
import base64
import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "nasbench101_sample.tfrecord"
EVALUATION = ("current_epoch", "training_time", "train_accuracy", "validation_accuracy", "test_accuracy")
POINT = ("training_time", "train_accuracy", "validation_accuracy", "test_accuracy")


def payloads(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while header := file.read(12):
            yield file.read(struct.unpack("<Q", header[:8])[0])
            file.read(4)


def framed(content: bytes) -> bytes:
    """A TFRecord."""
    length = struct.pack("<Q", len(content))
    checks = [((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF for crc in map(google_crc32c.value, (length, content))]
    return length + struct.pack("<I", checks[0]) + content + struct.pack("<I", checks[1])


def write_repeated(sample: Path, target: Path, cells: int, budgets: set[int]) -> int:
    """The number of records. All floats are rounded to what float32 holds, as those of the published files are; NaN becomes 0.5."""
    entries = []
    for payload in payloads(sample):
        name, epochs, adjacency, operations, metrics = json.loads(payload)
        message = bytearray(base64.b64decode(metrics))
        for place in (47 * evaluation + 3 + 9 * field for evaluation in range(3) for field in range(5)):
            value = np.nan_to_num(struct.unpack_from("<d", message, place)[0], nan=0.5)
            struct.pack_into("<d", message, place, float(np.float32(value)))
        if epochs in budgets:
            rest = [epochs, adjacency, operations, base64.encodebytes(message).decode()]
            entries.append((name, json.dumps(rest)[1:].encode()))
    copies = -(-cells // len({name for name, _ in entries}))
    with target.open("wb") as file:
        for copy in range(copies):
            for name, rest in entries:
                new = hashlib.md5(f"{name} {copy}".encode()).hexdigest()
                file.write(framed(f'["{new}", '.encode() + rest))
    return copies * len(entries)


def model_metrics() -> Any:
    """The class ModelMetrics of the official runtime."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_metrics.proto", package="nasbench", syntax="proto2")
    evaluation, metrics = file.message_type.add(name="EvaluationData"), file.message_type.add(name="ModelMetrics")
    optional, repeated = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    for number, name in enumerate(EVALUATION, start=1):
        evaluation.field.add(name=name, number=number, type=kinds.TYPE_DOUBLE, label=optional)
    evaluation.field.add(name="checkpoint_path", number=6, type=kinds.TYPE_STRING, label=optional)
    metrics.field.add(name="evaluation_data", number=1, type=kinds.TYPE_MESSAGE, type_name=".nasbench.EvaluationData", label=repeated)
    metrics.field.add(name="trainable_parameters", number=2, type=kinds.TYPE_INT32, label=optional)
    metrics.field.add(name="total_time", number=3, type=kinds.TYPE_DOUBLE, label=optional)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nasbench.ModelMetrics"))


def read_plainly(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fixed and computed statistics by module hash, as the official API keeps them."""
    parse, fixed, computed = model_metrics().FromString, {}, {}
    for payload in payloads(path):
        name, epochs, raw_adjacency, raw_operations, raw_metrics = json.loads(payload.decode("utf-8"))
        side = int(np.sqrt(len(raw_adjacency)))
        adjacency = np.array([int(entry) for entry in raw_adjacency], dtype=np.int8).reshape(side, side)
        operations = raw_operations.split(",")
        metrics = parse(base64.b64decode(raw_metrics))
        if name not in fixed:
            fixed[name] = {"adjacency": adjacency, "operations": operations, "parameters": metrics.trainable_parameters}
            computed[name] = {}
        point = {}
        for when, evaluation in (("halfway", metrics.evaluation_data[1]), ("final", metrics.evaluation_data[2])):
            point |= {f"{when}_{field}": getattr(evaluation, field) for field in POINT}
        computed[name].setdefault(epochs, []).append(point)
    return fixed, computed


def measure(reader: str, path: Path) -> None:
    """Prints wall and processor seconds of one reader, and the most memory of this process, in MB."""
    from raynas.tables.tfrecord import read_table

    wall, start = time.perf_counter(), time.process_time()
    if reader == "raynas":
        read_table(str(path))
    elif reader == "raynas and write":
        read_table(str(path)).write(path.with_suffix(".parquet"))
    else:
        read_plainly(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
    print(time.perf_counter() - wall, time.process_time() - start, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sample", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--cells", type=int, default=20_000, help="423624 for a file as large as the published ones")
    parser.add_argument("--budgets", default="4,12,36,108", help="108 for a file such as nasbench_only108.tfrecord")
    parser.add_argument("--measure", nargs=2, metavar=("READER", "FILE"), help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "repeated.tfrecord"
        records = write_repeated(arguments.sample, path, arguments.cells, set(map(int, arguments.budgets.split(","))))
        print(f"{records:,} records, {path.stat().st_size / 1e6:,.0f} MB")
        seconds = {}
        for reader, runtime in (
            ("raynas", ""),
            ("raynas and write", ""),
            ("plain, runtime in Python", "python"),
            ("plain, runtime in C", "upb"),
        ):
            environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": runtime}
            command = [sys.executable, __file__, "--measure", reader, str(path)]
            output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            wall, seconds[reader], peak = map(float, output.split())
            rate = records / seconds[reader]
            print(f"{reader:25} {wall:7.2f} s, of the processor {seconds[reader]:7.2f} s, {rate:9,.0f} records/s, {peak:6,.0f} MB")
    for reader in list(seconds)[2:]:
        print(f"{reader}: {seconds[reader] / seconds['raynas']:.1f} times as long as raynas")


if __name__ == "__main__":
    main()
