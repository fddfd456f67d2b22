"""NAS-Bench-101 with the names and the behaviour of its official API, on a table that `python -m raynas.convert` made.

    from raynas.tables import nasbench101 as api

replaces `from nasbench import api` (https://github.com/google-research/nasbench, Ying et al. 2019, https://arxiv.org/abs/1902.09635),
and a Parquet file the published one. Not here: `NASBench.evaluate`, which trains a network with TensorFlow (see
`python -m raynas.train`), and `ModelSpec.visualize`. V: vertices of a cell.
"""

import random
from collections.abc import Callable, Iterator, KeysView, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raynas.errors import OutOfSpaceError, TableError
from raynas.spaces.nasbench101_graph import INPUT, MAX_EDGES, MAX_VERTICES, OPS, OUTPUT, module_hash, prune
from raynas.tables.table import Table

# official name of a value -> metric of the table
_POINT = {
    "halfway_training_time": "halfway_train_seconds",
    "halfway_train_accuracy": "halfway_train_accuracy",
    "halfway_validation_accuracy": "halfway_valid_accuracy",
    "halfway_test_accuracy": "halfway_test_accuracy",
    "final_training_time": "train_seconds",
    "final_train_accuracy": "train_accuracy",
    "final_validation_accuracy": "valid_accuracy",
    "final_test_accuracy": "test_accuracy",
}
Point = dict[str, float]  # what is known of one training


class OutOfDomainError(OutOfSpaceError):
    """A cell is not of the search space, or the benchmark does not have the number of epochs."""


class ModelSpec:
    """A cell as it was given (`original_matrix`, `original_ops`) and pruned to its paths from input to output (`matrix`, `ops`).

    `valid_spec` is False, and `matrix` and `ops` are None, where there is no such path.

    Args:
        matrix: (V, V) of 0 and 1, upper triangular: nested lists or an array.
        ops: (V,) "input", names of operations, "output".
        data_format: kept as an attribute; it matters to networks only.

    Raises:
        ValueError: `matrix` is not square, not upper triangular, or has not as many rows as there are `ops`.
    """

    def __init__(self, matrix: Any, ops: Any, data_format: str = "channels_last") -> None:
        self.original_matrix = np.array(matrix)
        self.original_ops = list(ops)
        self.data_format = data_format
        shape = self.original_matrix.shape
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"matrix must be square, it has the shape {shape}")
        if shape[0] != len(self.original_ops):
            raise ValueError(f"length of ops must match matrix dimensions: {len(self.original_ops)} operations, {shape[0]} rows")
        if np.tril(self.original_matrix).any():
            raise ValueError("matrix must be upper triangular")
        pruned = prune(self.original_matrix.tolist(), self.original_ops)
        self.valid_spec = pruned is not None
        self.matrix: NDArray[Any] | None = None if pruned is None else np.array(pruned[0], dtype=self.original_matrix.dtype)
        self.ops: list[str] | None = None if pruned is None else list(pruned[1])

    def hash_spec(self, canonical_ops: list[str]) -> str:
        """The module hash, equal for isomorphic cells; an operation counts by its position in `canonical_ops`, at most 3 of them.

        Raises:
            OutOfDomainError: the cell is not valid.
            ValueError: an operation is not among `canonical_ops`, or these are more than 3.
        """
        if self.matrix is None or self.ops is None:
            raise OutOfDomainError("invalid spec, provided graph is disconnected.")
        if len(canonical_ops) > len(OPS):
            raise ValueError(f"canonical_ops may name {len(OPS)} operations, not {len(canonical_ops)}")
        ops = [OPS[list(canonical_ops).index(op)] for op in self.ops[1:-1]]
        return module_hash(self.matrix.tolist(), [INPUT, *ops, OUTPUT])


class _ByHash(Mapping[str, Any]):
    """A mapping from module hash to what `read` says of its row, made when it is asked for."""

    def __init__(self, table: Table, read: Callable[[int], Any]) -> None:
        self._table, self._read = table, read

    def __getitem__(self, key: str) -> Any:
        row = self._table.row(key)
        if row is None:
            raise KeyError(f"module {key} is not among the {len(self):,} of the table")
        return self._read(row)

    def __contains__(self, key: object) -> bool:
        return key in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.ids)

    def __len__(self) -> int:
        return len(self._table)


class NASBench:
    """The benchmark. Values are read when they are first asked for; those that the table does not have are NaN.

    Attributes:
        valid_epochs: the budgets, {4, 12, 36, 108} for the full file.
        fixed_statistics: module hash -> module_adjacency (V, V) int8, module_operations, trainable_parameters.
        computed_statistics: module hash -> epochs -> a list with one entry a training: halfway_training_time, halfway_train_accuracy,
            halfway_validation_accuracy, halfway_test_accuracy, and the same with final_.
        training_time_spent, total_epochs_spent: what all queries since the last reset would have cost; seconds and epochs.
    """

    def __init__(self, dataset_file: str, seed: int | None = None) -> None:
        """Opens a table and, as the official API does, seeds Python's `random`, from which a query draws the repeat.

        Raises:
            TableError: `dataset_file` is no table of nasbench101; the message says how to make one.
        """
        random.seed(seed)
        if str(dataset_file).endswith(".tfrecord"):
            raise TableError(f"convert the file once, then pass the table: `python -m raynas.convert {dataset_file} nasbench101.parquet`")
        self.table = Table.open(dataset_file)
        if self.table.space != "nasbench101":
            raise TableError(f"{dataset_file} is a table of the space {self.table.space}, not of nasbench101")
        self.config = {
            "available_ops": list(OPS),
            "module_vertices": MAX_VERTICES,
            "max_edges": MAX_EDGES,
            "num_repeats": self.table.repeats,
        }
        self.valid_epochs = set(self.table.budgets)
        self.fixed_statistics: Mapping[str, dict[str, Any]] = _ByHash(self.table, self._fixed)
        self.computed_statistics: Mapping[str, dict[int, list[Point]]] = _ByHash(self.table, self._computed)
        self.reset_budget_counters()

    def query(self, model_spec: ModelSpec, epochs: int = 108, stop_halfway: bool = False) -> dict[str, Any]:
        """One training of a cell, drawn from its repeats: module_adjacency, module_operations, trainable_parameters, training_time
        (seconds), train_accuracy, validation_accuracy, test_accuracy (fractions); counted in the budget.

        Args:
            epochs: a budget of the table.
            stop_halfway: what was measured after half of the epochs instead.

        Raises:
            OutOfDomainError: the cell or `epochs` is not of the benchmark.
            KeyError: the cell is of the space, but the table does not have it.
        """
        if epochs not in self.valid_epochs:
            raise OutOfDomainError(f"invalid number of epochs {epochs}, must be one of {sorted(self.valid_epochs)}")
        self._check_spec(model_spec)
        key = self._hash_spec(model_spec)
        data, row = self.fixed_statistics[key], self.table.row(key)
        points = [] if row is None else self._points(row, epochs)
        if not points:
            raise KeyError(f"the table has no training of module {key} for {epochs} epochs")
        point = points[random.randint(0, len(points) - 1)]
        when = "halfway_" if stop_halfway else "final_"
        data |= {name: point[when + name] for name in ("training_time", "train_accuracy", "validation_accuracy", "test_accuracy")}
        self.training_time_spent += data["training_time"]
        self.total_epochs_spent += epochs // 2 if stop_halfway else epochs
        return data

    def is_valid(self, model_spec: ModelSpec) -> bool:
        """Whether the cell belongs to the search space."""
        try:
            self._check_spec(model_spec)
        except OutOfDomainError:
            return False
        return True

    def get_budget_counters(self) -> tuple[float, int]:
        """Seconds and epochs of all queries since the last reset."""
        return self.training_time_spent, self.total_epochs_spent

    def reset_budget_counters(self) -> None:
        """Sets both counters to zero."""
        self.training_time_spent, self.total_epochs_spent = 0.0, 0

    def hash_iterator(self) -> KeysView[str]:
        """The hashes of all modules."""
        return self.fixed_statistics.keys()

    def get_metrics_from_hash(self, module_hash: str) -> tuple[dict[str, Any], dict[int, list[Point]]]:
        """`fixed_statistics` and `computed_statistics` of one module, without a cost.

        Raises:
            KeyError: the table does not have the module.
        """
        return self.fixed_statistics[module_hash], self.computed_statistics[module_hash]

    def get_metrics_from_spec(self, model_spec: ModelSpec) -> tuple[dict[str, Any], dict[int, list[Point]]]:
        """As `get_metrics_from_hash`.

        Raises:
            OutOfDomainError: the cell is not of the benchmark.
        """
        self._check_spec(model_spec)
        return self.get_metrics_from_hash(self._hash_spec(model_spec))

    def _check_spec(self, model_spec: ModelSpec) -> None:
        matrix, ops = model_spec.matrix, model_spec.ops
        if not model_spec.valid_spec or matrix is None or ops is None:
            raise OutOfDomainError("invalid spec, provided graph is disconnected.")
        if len(ops) > MAX_VERTICES:
            raise OutOfDomainError(f"too many vertices, got {len(ops)} (max vertices = {MAX_VERTICES})")
        if matrix.sum() > MAX_EDGES:
            raise OutOfDomainError(f"too many edges, got {matrix.sum()} (max edges = {MAX_EDGES})")
        if ops[0] != INPUT or ops[-1] != OUTPUT:
            raise OutOfDomainError(f"the first operation must be {INPUT!r} and the last {OUTPUT!r}, not {ops[0]!r} and {ops[-1]!r}")
        for op in ops[1:-1]:
            if op not in OPS:
                raise OutOfDomainError(f"unsupported op {op!r} (available ops = {list(OPS)})")

    def _hash_spec(self, model_spec: ModelSpec) -> str:
        return model_spec.hash_spec(list(OPS))

    def _fixed(self, row: int) -> dict[str, Any]:
        operations = self.table.extra_at(row, "operations").split(",")
        adjacency = np.array([int(entry) for entry in self.table.extra_at(row, "adjacency")], dtype=np.int8)
        return {
            "module_adjacency": adjacency.reshape(len(operations), len(operations)),
            "module_operations": operations,
            "trainable_parameters": self.table.extra_at(row, "trainable_parameters"),
        }

    def _computed(self, row: int) -> dict[int, list[Point]]:
        return {epochs: points for epochs in self.table.budgets if (points := self._points(row, epochs))}

    def _points(self, row: int, epochs: int) -> list[Point]:
        """The trainings of one cell for so many epochs, those without any value left out."""
        repeats = range(self.table.repeats)
        points = [{name: self.table.at(row, metric, epochs, r) for name, metric in _POINT.items()} for r in repeats]
        known = [point for point in points if any(value is not None for value in point.values())]
        return [{name: np.nan if value is None else value for name, value in point.items()} for point in known]
