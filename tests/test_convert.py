"""The command `python -m raynas.convert` on files of one's own, and its command line."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from nasbench_files import entry, record, refused, run

from raynas import __main__, convert
from raynas.errors import TableError
from raynas.spaces import make_space
from raynas.spaces.darts import GENOTYPES
from raynas.tables import Table


def cells(shared_data: Path, count: int = 300) -> pa.Table:
    return pq.read_table(shared_data / "nasbench101_test108.parquet").slice(1000, count)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_cells_of_ones_own(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    data, path = cells(shared_data), tmp_path / f"own.{kind}"
    (pq.write_table if kind == "parquet" else pacsv.write_csv)(data, path)
    arguments = ("--valid", "test_accuracy_run0", "--test", "test_accuracy_runs12_mean", "--seconds", "macs_thop")
    code, printed, _ = run(capsys, path, tmp_path / "new" / "B.parquet", *arguments)
    assert code == 0
    assert "300 architectures of nasbench101 on cifar10, epochs 108, repeats 1" in printed
    table = Table.open(tmp_path / "new" / "B.parquet")
    assert table.metadata["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert table.metadata["description"].startswith("valid_accuracy is the column test_accuracy_run0, test_accuracy is the column test_")
    for expected in data.to_pylist():
        known = (expected["test_accuracy_run0"], expected["test_accuracy_runs12_mean"], float(expected["macs_thop"]))
        assert table.query(expected["hash"]) == pytest.approx((108, *known), rel=1e-7)  # of which CSV keeps 7 digits
        row = table.row(expected["hash"])
        assert row is not None
        for name in ("adjacency", "operations", "trainable_parameters"):
            assert table.extra_at(row, name) == expected[name]


def test_many_rows_are_read_in_several_processes(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.parquet"
    pq.write_table(cells(shared_data), path)
    arguments = ("--valid", "test_accuracy_mean")
    assert run(capsys, path, tmp_path / "one.parquet", *arguments)[0] == 0
    monkeypatch.setattr(convert, "_CHUNK", 110)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert run(capsys, path, tmp_path / "two.parquet", *arguments)[0] == 0
    assert pq.read_table(tmp_path / "one.parquet").equals(pq.read_table(tmp_path / "two.parquet"), check_metadata=True)
    data = pa.concat_tables([cells(shared_data, 250), cells(shared_data, 1)])
    pq.write_table(data.set_column(1, "adjacency", pa.array(["01", *data["adjacency"].to_pylist()[1:]])), path)
    assert "row 1 of " in refused(capsys, path, tmp_path / "three.parquet", *arguments)


def test_a_table_of_nasbench201_in_percent(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pq.read_table(shared_data / "nasbench201.parquet").slice(0, 500)
    pq.write_table(data, tmp_path / "own.parquet")
    arguments = ("--valid", "cifar10_valid_accuracy_200", "--percent", "--dataset", "other", "--epochs", 12)
    assert run(capsys, tmp_path / "own.parquet", tmp_path / "t.parquet", *arguments)[0] == 0
    table = Table.open(tmp_path / "t.parquet")
    assert (table.space, table.dataset, table.budgets) == ("nasbench201", "other", (12,))
    for arch, percent in zip(data["arch"].to_pylist(), data["cifar10_valid_accuracy_200"].to_pylist(), strict=True):
        assert table.query(arch).valid_accuracy == percent / 100


def test_a_table_of_darts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [json.dumps(GENOTYPES[name]) for name in ("BANANAS", "DARTS_V1", "DARTS_V2", "ASHA200")]
    pacsv.write_csv(pa.table({"genotype": texts, "error free": [0.97, 0.96, None, 0.95]}), tmp_path / "own.csv")
    assert run(capsys, tmp_path / "own.csv", tmp_path / "t.parquet", "--valid", "error free")[0] == 0
    table, space = Table.open(tmp_path / "t.parquet"), make_space("darts", {"with_none": True})
    assert (table.space, table.budgets) == ("darts", (600,))
    archs = {name: space.from_config(genotype) for name, genotype in GENOTYPES.items()}
    assert table.query(archs["DARTS_V1"].id).valid_accuracy == 0.96
    assert "DARTS_V2" in archs
    with pytest.raises(TableError, match="no valid_accuracy"):
        table.query(archs["DARTS_V2"].id)
    row = table.row(archs["BANANAS"].id)
    assert row is not None
    assert space.from_config(json.loads(table.extra_at(row, "genotype"))) == archs["BANANAS"]
    assert table.extra_at(row, "trainable_parameters") == space.cost(archs["BANANAS"]).parameters


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_results_after_several_budgets(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    names = {epochs: f"cifar10_valid_accuracy_{epochs}" for epochs in (200, 12)}
    data = pq.read_table(shared_data / "nasbench201.parquet").slice(0, 300)
    long = [{"arch": row["arch"], "after": epochs, "valid": row[names[epochs]]} for row in data.to_pylist() for epochs in names]
    del long[1]  # the first architecture is known after 200 epochs alone
    path = tmp_path / f"own.{kind}"
    (pq.write_table if kind == "parquet" else pacsv.write_csv)(pa.Table.from_pylist(long), path)
    code, printed, _ = run(capsys, path, tmp_path / "t.parquet", "--valid", "valid", "--percent", "--epoch", "after")
    assert code == 0
    assert "300 architectures of nasbench201 on cifar10, epochs 12, 200, repeats 1" in printed
    table = Table.open(tmp_path / "t.parquet")
    for line in long:
        assert table.query(line["arch"], line["after"]).valid_accuracy == pytest.approx(line["valid"] / 100)
    with pytest.raises(TableError, match="no valid_accuracy"):
        table.query(long[0]["arch"], 12)


GOOD = {
    "adjacency": ["0100", "010001000", "010001000"],
    "operations": ["input,output", "input,maxpool3x3,output", "input,conv1x1-bn-relu,output"],
}
ARCH = "|none~0|+|none~0|none~1|+|none~0|none~1|{}~2|"


@pytest.mark.parametrize(
    ("changes", "arguments", "problem"),
    [
        (
            {},
            ("--valid", "acuracy"),
            "unknown column of own.csv 'acuracy'; did you mean 'accuracy'? Known: accuracy, adjacency, operations",
        ),
        ({}, (), "--valid COLUMN is missing"),
        ({}, ("--valid", "operations"), "the column operations of own.csv must hold numbers"),
        ({}, ("--valid", "accuracy", "--space", "darts"), "for the space darts own.csv lacks the column genotype; its columns are"),
        ({}, ("--valid", "accuracy", "--space", "dart"), "unknown space 'dart'; did you mean 'darts'?"),
        ({"e": [4, 0, 4]}, ("--valid", "accuracy", "--epoch", "e"), "row 2 of own.csv: e is 0; epochs are at least 1"),
        ({"e": [4, None, 4]}, ("--valid", "accuracy", "--epoch", "e"), "row 2 of own.csv: e is empty; epochs are at least 1"),
        ({"e": [4, 4.5, 4]}, ("--valid", "accuracy", "--epoch", "e"), "the column e of own.csv must hold whole numbers"),
        ({}, ("--valid", "accuracy", "--epoch", "e"), "unknown column of own.csv 'e'"),
        ({}, ("--valid", "accuracy", "--epoch", "e", "--epochs", "4"), "--epoch COLUMN tells the epochs of each row, and --epochs N"),
        (
            {"operations": ["input,output"] + 2 * ["input,maxpool3x3,output"], "e": [4, 4, 4]},
            ("--valid", "accuracy", "--epoch", "e"),
            "rows 2 and 3 of own.csv describe the same architecture",
        ),
        ({}, ("--valid", "accuracy", "--epochs", "0"), "budgets are positive epochs"),
        ({}, ("--valid", "accuracy", "--url", "http://x"), "--url names a mirror for --download"),
        ({"accuracy": [0.5, 93.5, 0.5]}, ("--valid", "accuracy"), "row 2 of own.csv: accuracy is 93.5; accuracies are fractions in [0, 1]"),
        ({"accuracy": [0.5, 101.0, 0.5]}, ("--valid", "accuracy", "--percent"), "row 2 of own.csv: accuracy is 101"),
        ({"s": [1.0, -1.0, 1.0]}, ("--valid", "accuracy", "--seconds", "s"), "row 2 of own.csv: s is -1; seconds are not negative"),
        ({"accuracy": pa.nulls(3, pa.float64())}, ("--valid", "accuracy"), "the column accuracy of own.csv is empty"),
        ({"adjacency": ["0100", "010001000", "010000000"]}, ("--valid", "accuracy"), "row 3 of own.csv: the matrix connects input and"),
        ({"adjacency": ["0100", "010001000", "01"]}, ("--valid", "accuracy"), "row 3 of own.csv: for 3 operations the adjacency must be 9"),
        (
            {"operations": ["input,output"] + 2 * ["input,maxpool3x3,output"]},
            ("--valid", "accuracy"),
            "rows 2 and 3 of own.csv describe the",
        ),
        ({"adjacency": None}, ("--valid", "accuracy"), "own.csv describes no architectures; needed are adjacency and operations for"),
        ({"arch": [ARCH.format("none")] * 3}, ("--valid", "accuracy"), "own.csv fits nasbench101 and nasbench201, choose one with --space"),
        (
            {"arch": [ARCH.format("none"), ARCH.format("skip_connect"), ARCH.format("skip")]},
            ("--valid", "accuracy", "--space", "nasbench201"),
            "row 3 of own.csv: 'skip' is no operation of NAS-Bench-201",
        ),
        ({"genotype": ["{"] * 3}, ("--valid", "accuracy", "--space", "darts"), "row 1 of own.csv: the genotype is not JSON"),
        ({"genotype": ["[]"] * 3}, ("--valid", "accuracy", "--space", "darts"), "row 1 of own.csv: the genotype must be a JSON object"),
        ({"genotype": ["{}"] * 3}, ("--valid", "accuracy", "--space", "darts"), "row 1 of own.csv: a DARTS architecture needs the field"),
    ],
)
def test_mistakes_in_a_file_of_ones_own(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    arguments: tuple[str, ...],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    columns = {"accuracy": [0.5, 0.6, 0.7]} | GOOD | changes
    pacsv.write_csv(pa.table({name: column for name, column in columns.items() if column is not None}), "own.csv")
    assert problem in refused(capsys, "own.csv", "t.parquet", *arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["own.csv"]


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "t.parquet"
    for name in ("none.parquet", "none.csv", "none.tfrecord"):
        own = () if name.endswith("tfrecord") else ("--valid", "a")
        assert "none." in refused(capsys, tmp_path / name, target, *own)
    (tmp_path / "bad.parquet").write_bytes(b"adjacency,operations\n")
    assert "it may be damaged" in refused(capsys, tmp_path / "bad.parquet", target, "--valid", "a")
    (tmp_path / "numbers.parquet").write_bytes(b"")
    pq.write_table(pa.table({"adjacency": [100], "operations": ["input,output"], "a": [0.5]}), tmp_path / "numbers.parquet")
    assert "the column adjacency of" in refused(capsys, tmp_path / "numbers.parquet", target, "--valid", "a")
    pq.write_table(pa.table({"adjacency": [None], "operations": ["input,output"], "a": [0.5]}).cast(
        pa.schema({"adjacency": pa.string(), "operations": pa.string(), "a": pa.float64()})), tmp_path / "null.parquet")  # fmt: skip
    assert "row 1 of" in refused(capsys, tmp_path / "null.parquet", target, "--valid", "a")
    (tmp_path / "empty.csv").write_text("adjacency,operations,a\n")
    assert "has no rows" in refused(capsys, tmp_path / "empty.csv", target, "--valid", "a")
    (tmp_path / "table.pickle").write_bytes(b"")
    assert "must end in .tfrecord, .parquet or .csv" in refused(capsys, tmp_path / "table.pickle", target, "--valid", "a")
    assert not target.exists()


def test_arguments_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.tfrecord"
    path.write_bytes(record(entry()))
    assert "two paths, SRC and DST; got 1" in refused(capsys, path)
    assert "two paths, SRC and DST; got 0: none" in refused(capsys)
    assert "one path with --download" in refused(capsys, "--download", "nasbench101", path, path)
    assert "--valid does not go with a published file" in refused(capsys, path, tmp_path / "t.parquet", "--valid", "a")
    assert "--space darts does not go with" in refused(capsys, path, tmp_path / "t.parquet", "--space", "darts")
    assert "is a folder" in refused(capsys, path, tmp_path)
    assert "is the file to convert" in refused(capsys, path, path)
    with pytest.raises(SystemExit) as stop:
        convert.main(["--vaild", "a"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: unknown argument '--vaild'; did you mean --valid?; see python -m raynas.convert --help\n"


def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.tfrecord").write_bytes(record(entry()))

    def interrupted(table: Any, path: str, filesystem: Any, **options: Any) -> None:
        with filesystem.open_output_stream(path) as stream:
            stream.write(b"PAR1")
        raise KeyboardInterrupt

    monkeypatch.setattr("pyarrow.parquet.write_table", interrupted)
    assert run(capsys, tmp_path / "one.tfrecord", tmp_path / "t.parquet")[0] == 130
    assert [file.name for file in tmp_path.iterdir()] == ["one.tfrecord"]


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.tfrecord").write_bytes(record(entry()))
    monkeypatch.setattr(convert, "_LINE_SECONDS", 0.0)
    assert "reading one.tfrecord: 100%\n" in run(capsys, tmp_path / "one.tfrecord", tmp_path / "t.parquet")[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in run(capsys, tmp_path / "one.tfrecord", tmp_path / "t.parquet")[1]


def test_the_command_line(tmp_path: Path) -> None:
    assert __main__.COMMANDS["convert"] == "raynas.convert:main"
    (tmp_path / "one.tfrecord").write_bytes(record(entry()))
    command = [sys.executable, "-m", "raynas", "convert"]
    done = subprocess.run([*command, "one.tfrecord", "t.parquet"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "t.parquet: 1 architectures of nasbench101" in done.stdout
    shown = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "--download NAME DST" in shown
