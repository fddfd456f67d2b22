"""What docs/extending.md shows, the files of examples/, is added from outside the package, through public names alone, and works."""

import ast
import csv
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import raynas
import searchers

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
LAYERS = ("conv3", "conv1", "skip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, in a folder of the user's."""
    return Path(shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("mine") / "examples"))


def command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def shown(start: str) -> list[str]:
    """The arguments of a command of the page that begins so."""
    lines = PAGE.replace("\\\n", " ").splitlines()
    return shlex.split(next(line for line in lines if line.startswith(start)))[1:]


def test_public_names_suffice() -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in EXAMPLES.glob("*.py")]
    assert len(trees) >= 6
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.ImportFrom) and node.module in ("raynas", "searchers"):
            assert {alias.name for alias in node.names} <= {*raynas.__all__, *searchers.__all__}
        elif isinstance(node, ast.ImportFrom):
            assert node.module in ("dataclasses", "torch", "trainables.train")
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")
        elif isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= {"sys", "time", "numpy", "torch"}


@pytest.mark.slow
def test_a_search_that_really_trains_with_everything_of_ones_own(folder: Path) -> None:
    arguments = shown("python -m raynas.search --space my_space:Chain --trainable my_trainable:TimedTrial")
    done = command(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    trials = str(folder / "runs/mine/trials.parquet")
    rows = duckdb.execute("select arch_id, status, epochs, valid_accuracy, latency, parameters from read_parquet(?)", [trials]).fetchall()
    assert len(rows) == len({row[0] for row in rows}) == 6
    assert {row[1] for row in rows} <= {"finished", "stopped"}
    assert {row[2] for row in rows} <= {1, 2}
    assert any(row[1:3] == ("finished", 2) for row in rows)  # two epochs
    for _, _, _, accuracy, latency, parameters in rows:
        assert 0 <= accuracy <= 1
        assert latency > 0
        assert parameters <= 2000
    reports = str(folder / "runs/mine/reports.parquet")
    assert duckdb.execute("select count(*) from read_parquet(?) where latency > 0", [reports]).fetchone() == (sum(row[2] for row in rows),)
    best = json.loads((folder / "runs/mine/best.json").read_text())
    assert (best["space"], best["arch"]["space"]) == ("my_space:Chain", "chain")
    assert best["latency"] > 0

    trained = command(folder, *shown("python -m raynas.train"), "--out", "trained")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    check = "import torch; from raynas.train import load_model; print(load_model('trained')(torch.zeros(3, 1, 8, 8)).shape)"
    assert command(folder, "-c", check).stdout.strip() == "torch.Size([3, 10])"


@pytest.mark.slow
def test_a_predictor_of_graphs_and_a_data_set(folder: Path) -> None:
    arguments = shown("python -m raynas.search --space my_space:Chain --trainable train")
    few = ["--set", "searcher_options.num_initial=3", "--set", "searcher_options.pool=20"]
    done = command(folder, *arguments, *few, "--trials", 6, "--max-epochs", 1, "--out", "runs/graphs", "--recipe", "quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed to propose" not in done.stderr
    trials = str(folder / "runs/graphs/trials.parquet")
    found = duckdb.execute("select count(*), count(distinct arch_id), min(valid_accuracy) from read_parquet(?)", [trials]).fetchone()
    assert found is not None
    assert found[:2] == (6, 6)
    assert found[2] >= 0.4  # of two classes


def test_a_table_of_a_space_of_ones_own(folder: Path) -> None:
    with (folder / "chains.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch", "accuracy"])
        for layers in itertools.product(LAYERS, repeat=4):
            if layers[0] != "skip":  # a part of the space
                writer.writerow([json.dumps({"layers": layers}), 0.3 + 0.1 * layers.count("conv3")])
    done = command(
        folder, "-m", "raynas.convert", "chains.csv", "chains.parquet", "--space", "my_space:Chain", "--valid", "accuracy", "--epochs", 2
    )
    assert done.returncode == 0, done.stderr
    table = ["--space", "my_space:Chain", "--table", "chains.parquet"]
    options = ("predictor=my_predictor:GraphRidge", "num_initial=5", "pool=20")
    graph = [part for option in options for part in ("--set", f"searcher_options.bananas.{option}")]
    compared = command(
        folder, "-m", "raynas.compare", *table, "--searchers", "my_method:Climb,bananas,evolution", *graph, "--seeds", 2, "--trials", 54
    )
    assert compared.returncode == 0, compared.stderr
    best = "select max(valid_accuracy), max(queries) from read_parquet(?) group by searcher"
    assert duckdb.execute(best, [str(folder / "comparison/curves.parquet")]).fetchall() == [(pytest.approx(0.7), 54)] * 3
    searched = command(folder, "-m", "raynas.search", *table, "--trials", 60, "--searcher", "my_method:Climb", "--out", "runs/table")
    assert searched.returncode == 0, searched.stderr
    assert "The space holds no more architectures: 54 of 60 trials were possible" in searched.stdout
    assert "best validation accuracy 70.000 %" in searched.stdout
