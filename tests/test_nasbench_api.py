"""The official API of NAS-Bench-101 on a converted table."""

import base64
import json
import random
import struct
from collections import defaultdict
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raynas import convert
from raynas.errors import RaynasError, TableError
from raynas.tables import Table
from raynas.tables import nasbench101 as api
from raynas.tables.nasbench101 import ModelSpec, NASBench, OutOfDomainError

INPUT, OUTPUT, CONV1X1, CONV3X3, MAXPOOL3X3 = "input", "output", "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"
OPS = [CONV3X3, CONV1X1, MAXPOOL3X3]
TIMES = ("training_time", "train_accuracy", "validation_accuracy", "test_accuracy")  # in the order of the file

# The Inception-like cell in the official README.
MATRIX = [
    [0, 1, 1, 1, 0, 1, 0],
    [0, 0, 0, 0, 0, 0, 1],
    [0, 0, 0, 0, 0, 0, 1],
    [0, 0, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 0, 1],
    [0, 0, 0, 0, 0, 0, 1],
    [0, 0, 0, 0, 0, 0, 0],
]
LABELS = [INPUT, CONV1X1, CONV3X3, CONV3X3, CONV3X3, MAXPOOL3X3, OUTPUT]


@pytest.fixture(scope="module")
def records(shared_data: Path) -> dict[str, Any]:
    """module hash -> fixed and computed statistics, as the official API builds them; numbers by their places in the sample's messages."""
    found: dict[str, Any] = {}
    content, at = (shared_data / "nasbench101_sample.tfrecord").read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        name, epochs, adjacency, operations, metrics = json.loads(content[at + 12 : at + 12 + length])
        at += length + 16
        message = base64.b64decode(metrics)
        numbers = [[struct.unpack_from("<d", message, 47 * i + 12 + 9 * k)[0] for k in range(4)] for i in range(3)]
        point = {f"halfway_{time}": value for time, value in zip(TIMES, numbers[1], strict=True)}
        point |= {f"final_{time}": value for time, value in zip(TIMES, numbers[2], strict=True)}
        parameters = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(message[142:-9]))
        cell = {"matrix": adjacency, "ops": operations.split(","), "parameters": parameters, "points": defaultdict(list)}
        found.setdefault(name, cell)["points"][epochs].append(point)
    return found


@pytest.fixture(scope="module")
def path(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("api") / "sample.parquet"
    assert convert.main([str(shared_data / "nasbench101_sample.tfrecord"), str(target)]) == 0
    return target


@pytest.fixture
def nasbench(path: Path) -> NASBench:
    return NASBench(str(path), seed=0)


def spec(cell: dict[str, Any]) -> ModelSpec:
    size = len(cell["ops"])
    return ModelSpec([[int(cell["matrix"][size * v + w]) for w in range(size)] for v in range(size)], cell["ops"])


def test_every_value_is_that_of_the_file(nasbench: NASBench, records: dict[str, Any]) -> None:
    assert nasbench.valid_epochs == {4, 12, 36, 108}
    assert sorted(nasbench.hash_iterator()) == sorted(records)
    assert len(nasbench.hash_iterator()) == 800
    for name, cell in records.items():
        fixed, computed = nasbench.get_metrics_from_hash(name)
        assert fixed.keys() == {"module_adjacency", "module_operations", "trainable_parameters"}
        assert "".join(map(str, fixed["module_adjacency"].ravel())) == cell["matrix"]
        assert (fixed["module_adjacency"].dtype, fixed["module_adjacency"].shape) == (np.int8, (len(cell["ops"]),) * 2)
        assert (fixed["module_operations"], fixed["trainable_parameters"]) == (cell["ops"], cell["parameters"])
        assert computed.keys() == cell["points"].keys()
        for epochs, points in cell["points"].items():
            np.testing.assert_equal(computed[epochs], points)  # with NaN equal to NaN


def test_cells_are_found_by_their_graph(nasbench: NASBench, records: dict[str, Any]) -> None:
    for name, cell in list(records.items())[:100]:
        model = spec(cell)
        assert model.hash_spec(OPS) == name
        assert nasbench.is_valid(model)
        np.testing.assert_equal(nasbench.get_metrics_from_spec(model), nasbench.get_metrics_from_hash(name))


@pytest.mark.parametrize("stop_halfway", [False, True])
def test_query_draws_a_repeat_and_counts(path: Path, records: dict[str, Any], stop_halfway: bool) -> None:
    nasbench, when = NASBench(str(path), seed=5), "halfway_" if stop_halfway else "final_"
    seconds, epochs_spent, draws = 0.0, 0, random.Random(5)
    for name, cell in list(records.items())[:60]:
        epochs = [4, 12, 36, 108][epochs_spent % 4]
        data = nasbench.query(spec(cell), epochs, stop_halfway)
        point = cell["points"][epochs][draws.randint(0, 2)]
        assert list(data) == ["module_adjacency", "module_operations", "trainable_parameters", *TIMES]
        np.testing.assert_equal([data[time] for time in TIMES], [point[when + time] for time in TIMES])
        assert spec(cell).hash_spec(OPS) == name
        seconds += point[when + "training_time"]
        epochs_spent += epochs // 2 if stop_halfway else epochs
    assert nasbench.get_budget_counters() == (seconds, epochs_spent)
    assert (nasbench.training_time_spent, nasbench.total_epochs_spent) == (seconds, epochs_spent)
    nasbench.reset_budget_counters()
    assert nasbench.get_budget_counters() == (0.0, 0)


def test_what_is_returned_can_be_changed(nasbench: NASBench, records: dict[str, Any]) -> None:
    name = next(iter(records))
    fixed, computed = nasbench.get_metrics_from_hash(name)
    fixed["module_adjacency"][:] = 7
    fixed["module_operations"].clear()
    computed[108][0].clear()
    computed.clear()
    np.testing.assert_equal(nasbench.get_metrics_from_hash(name)[1], dict(records[name]["points"]))
    assert nasbench.fixed_statistics[name]["module_operations"] == records[name]["ops"]


def test_off_the_table(nasbench: NASBench) -> None:
    with pytest.raises(KeyError, match="not among the 800"):
        nasbench.get_metrics_from_hash("0" * 32)
    assert "0" * 32 not in nasbench.computed_statistics
    chain = ModelSpec(np.eye(7, k=1, dtype=int), [INPUT, CONV1X1, CONV1X1, CONV1X1, CONV1X1, CONV1X1, OUTPUT])
    assert nasbench.is_valid(chain)
    with pytest.raises(KeyError):
        nasbench.query(chain)
    assert nasbench.get_budget_counters() == (0.0, 0)


def test_cells_out_of_the_domain(nasbench: NASBench) -> None:
    full = np.triu(np.ones((7, 7), dtype=int), 1)
    wrong = {
        "disconnected": ModelSpec([[0, 0], [0, 0]], [INPUT, OUTPUT]),
        "too many vertices, got 8": ModelSpec(np.eye(8, k=1, dtype=int), [INPUT, *[CONV1X1] * 6, OUTPUT]),
        "too many edges, got 21": ModelSpec(full, LABELS),
        "first operation must be 'input'": ModelSpec([[0, 1], [0, 0]], [OUTPUT, OUTPUT]),
        "the last 'output'": ModelSpec([[0, 1], [0, 0]], [INPUT, INPUT]),
        "unsupported op 'conv5x5'": ModelSpec(np.eye(3, k=1), [INPUT, "conv5x5", OUTPUT]),
    }
    for problem, model in wrong.items():
        assert not nasbench.is_valid(model)
        for call in (nasbench.query, nasbench.get_metrics_from_spec):
            with pytest.raises(OutOfDomainError, match=problem):
                call(model)
    with pytest.raises(OutOfDomainError, match=r"invalid number of epochs 5, must be one of \[4, 12, 36, 108\]"):
        nasbench.query(ModelSpec(MATRIX, LABELS), epochs=5)
    assert issubclass(OutOfDomainError, RaynasError)


# matrix edges, vertices, operations before and after pruning: the cases of the official model_spec_test.py
@pytest.mark.parametrize(
    ("edges", "kept"),
    [
        ([(0, 1), (1, 3)], [0, 1, 3]),  # 2 is an island
        ([(0, 1), (0, 2), (2, 3)], [0, 2, 3]),  # 1 leads nowhere
        ([(0, 2), (1, 3), (2, 3)], [0, 2, 3]),  # nothing leads to 1
        ([(0, 1), (2, 3)], None),  # no path from 0 to 3
    ],
)
def test_pruning(edges: list[tuple[int, int]], kept: list[int] | None) -> None:
    matrix = np.zeros((4, 4), dtype=np.int8)
    for v, w in edges:
        matrix[v, w] = 1
    before, ops = matrix.copy(), ["1", "2", "3", "4"]
    model = ModelSpec(matrix, ops)
    matrix[:] = 1  # the specification keeps copies
    ops.clear()
    np.testing.assert_array_equal(model.original_matrix, before)
    assert (model.original_ops, model.data_format) == (["1", "2", "3", "4"], "channels_last")
    assert model.valid_spec == (kept is not None)
    if kept is None:
        assert model.matrix is None
        assert model.ops is None
        with pytest.raises(OutOfDomainError, match="disconnected"):
            model.hash_spec(OPS)
    else:
        np.testing.assert_array_equal(model.matrix, before[np.ix_(kept, kept)])
        assert model.matrix is not None
        assert model.matrix.dtype == np.int8
        assert model.ops == [str(v + 1) for v in kept]


def test_specifications_that_make_no_sense() -> None:
    for matrix, ops, problem in [
        ([[0, 1]], [INPUT, OUTPUT], "must be square"),
        ([0, 1], [INPUT, OUTPUT], "must be square"),
        ([[0, 1], [0, 0]], [INPUT], "length of ops must match"),
        ([[0, 1], [1, 0]], [INPUT, OUTPUT], "upper triangular"),
        ([[1, 1], [0, 0]], [INPUT, OUTPUT], "upper triangular"),
    ]:
        with pytest.raises(ValueError, match=problem):
            ModelSpec(matrix, ops)


def test_hash_is_that_of_isomorphic_cells_only() -> None:
    """All topological orders of one cell have one hash; canonical_ops gives the operations their labels."""
    matrix, model, found = np.array(MATRIX), ModelSpec(MATRIX, LABELS), set()
    for inner in permutations(range(1, 6)):
        order = [0, *inner, 6]
        moved = matrix[np.ix_(order, order)]
        if not np.tril(moved).any():
            found.add(ModelSpec(moved, [LABELS[v] for v in order]).hash_spec(OPS))
    assert found == {model.hash_spec(OPS)}
    swapped = [{CONV1X1: CONV3X3, CONV3X3: CONV1X1}.get(op, op) for op in LABELS]
    other = ModelSpec(MATRIX, swapped)
    assert other.hash_spec(OPS) != model.hash_spec(OPS)
    assert other.hash_spec([CONV1X1, CONV3X3, MAXPOOL3X3]) == model.hash_spec(OPS)
    with pytest.raises(ValueError, match="is not in list"):
        model.hash_spec([CONV1X1, CONV3X3])
    with pytest.raises(ValueError, match="3 operations, not 4"):
        model.hash_spec([*OPS, "conv5x5"])


def test_a_table_of_ones_own_has_nan_where_it_knows_nothing(tmp_path: Path, shared_data: Path) -> None:
    source, target = shared_data / "nasbench101_sample.tfrecord", tmp_path / "own.parquet"
    model = ModelSpec(MATRIX, LABELS)
    row = ["".join(str(entry) for line in MATRIX for entry in line), f'"{",".join(LABELS)}"', "0.9375", "0.9311"]
    (tmp_path / "own.csv").write_text(f"adjacency,operations,a,b\n{','.join(row)}\n")
    assert convert.main([str(tmp_path / "own.csv"), str(target), "--valid", "a", "--test", "b"]) == 0
    nasbench = api.NASBench(str(target))
    data = nasbench.query(model)
    assert (data["validation_accuracy"], data["test_accuracy"], data["trainable_parameters"]) == (0.9375, 0.9311, 2_694_282)
    assert np.isnan([data["training_time"], data["train_accuracy"]]).all()
    assert nasbench.config["available_ops"] == OPS
    assert list(nasbench.hash_iterator()) == [model.hash_spec(OPS)]
    with pytest.raises(TableError, match=r"convert the file once.*python -m raynas.convert"):
        NASBench(str(source))


def test_tables_of_other_spaces_are_refused(tmp_path: Path) -> None:
    table = Table.build(
        space="toy", dataset="d", ids=["a"], metrics={"valid_accuracy": np.ones((1, 1, 1))}, budgets=[1], source="", licence="", sha256=None
    )
    table.write(tmp_path / "toy.parquet")
    with pytest.raises(TableError, match="of the space toy, not of nasbench101"):
        NASBench(str(tmp_path / "toy.parquet"))
