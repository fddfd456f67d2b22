"""Files in the format of NAS-Bench-101, made and read without raynas: for the tests of the readers."""

import base64
import json
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from raynas import convert
from raynas.tables.tfrecord import VALUES

OFFICIAL = {  # metric -> evaluation and field in the official format
    "valid_accuracy": (2, "validation_accuracy"),
    "test_accuracy": (2, "test_accuracy"),
    "train_seconds": (2, "training_time"),
    "train_accuracy": (2, "train_accuracy"),
    "halfway_valid_accuracy": (1, "validation_accuracy"),
    "halfway_test_accuracy": (1, "test_accuracy"),
    "halfway_train_accuracy": (1, "train_accuracy"),
    "halfway_train_seconds": (1, "training_time"),
}
NUMBERS = ("current_epoch", "training_time", "train_accuracy", "validation_accuracy", "test_accuracy")


@cache
def model_metrics() -> Any:
    """The class ModelMetrics of the official protocol buffers runtime."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_metrics.proto", package="nasbench", syntax="proto2")
    evaluation = file.message_type.add(name="EvaluationData")
    for number, name in enumerate(NUMBERS, start=1):
        evaluation.field.add(name=name, number=number, type=kinds.TYPE_DOUBLE, label=kinds.LABEL_OPTIONAL)
    evaluation.field.add(name="checkpoint_path", number=6, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    metrics = file.message_type.add(name="ModelMetrics")
    repeated = kinds.LABEL_REPEATED
    metrics.field.add(name="evaluation_data", number=1, type=kinds.TYPE_MESSAGE, type_name=".nasbench.EvaluationData", label=repeated)
    metrics.field.add(name="trainable_parameters", number=2, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
    metrics.field.add(name="total_time", number=3, type=kinds.TYPE_DOUBLE, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nasbench.ModelMetrics"))


def expected_values(message: Any) -> list[float]:
    return [getattr(message.evaluation_data[which], name) for which, name in (OFFICIAL[metric] for metric in VALUES)]


def crc32c(content: bytes) -> int:
    """Bit by bit, by the definition (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def record(content: bytes) -> bytes:
    """A TFRecord."""
    length = struct.pack("<Q", len(content))
    check = [((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF for crc in (crc32c(length), crc32c(content))]
    return length + struct.pack("<I", check[0]) + content + struct.pack("<I", check[1])


def message(valid: float = 0.5, seconds: float = 100.0, parameters: int = 2_694_282, evaluations: int = 3) -> bytes:
    made = model_metrics()(trainable_parameters=parameters, total_time=seconds)
    for share in range(evaluations):
        numbers = (54.0 * share, seconds * share / 2, 0.25, valid * share / 2, valid * share / 2)
        made.evaluation_data.add(**dict(zip(NUMBERS, numbers, strict=True)))
    content: bytes = made.SerializeToString()
    return content


def entry(name: str = "a", epochs: Any = 108, adjacency: Any = "0100", operations: str = "input,output", metrics: Any = None) -> bytes:
    content = message() if metrics is None else metrics
    return json.dumps([name, epochs, adjacency, operations, base64.encodebytes(content).decode()]).encode()


def official_records(path: Path) -> Iterator[tuple[str, int, str, str, Any]]:
    """The records of a file by the official runtime, without a look at the checksums."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        *texts, metrics = json.loads(content[at + 12 : at + 12 + length])
        yield *texts, model_metrics().FromString(base64.b64decode(metrics))
        at += length + 16


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of the command."""
    code = convert.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which the command refuses."""
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors
