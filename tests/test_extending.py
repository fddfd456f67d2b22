"""Everything that README shows under "Extending" is added from outside the package, through public names alone, and works."""

import ast
import csv
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import raynas
import searchers

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LAYERS = ("conv3", "conv1", "skip")


def block(start: str) -> str:
    """The block of README that begins with `start`."""
    return next(text for text in re.findall(r"```(?:python)?\n(.*?)```", README, re.DOTALL) if text.startswith(start))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds mine.py, as a user would have it."""
    made = tmp_path_factory.mktemp("mine")
    (made / "mine.py").write_text(block("# mine.py"))
    return made


def command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def shown(start: str) -> list[str]:
    """The arguments of a command of README that begins so."""
    lines = block("python -m raynas.search --space mine:Chain").replace("\\\n", " ").splitlines()
    return shlex.split(next(line for line in lines if line.startswith(start)))[1:]


def test_public_names_suffice() -> None:
    for node in ast.walk(ast.parse(block("# mine.py"))):
        if isinstance(node, ast.ImportFrom) and node.module in ("raynas", "searchers"):
            assert {alias.name for alias in node.names} <= {*raynas.__all__, *searchers.__all__}
        elif isinstance(node, ast.ImportFrom):
            assert node.module in ("dataclasses", "torch", "trainables.train")
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")
        elif isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= {"time", "numpy", "torch"}


@pytest.mark.slow
def test_a_search_that_really_trains_with_everything_of_ones_own(folder: Path) -> None:
    arguments = shown("python -m raynas.search --space mine:Chain --trainable mine:TimedTrial")
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
    assert (best["space"], best["arch"]["space"]) == ("mine:Chain", "chain")
    assert best["latency"] > 0

    trained = command(folder, *shown("python -m raynas.train"), "--out", "trained")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    check = "import torch; from raynas.train import load_model; print(load_model('trained')(torch.zeros(3, 1, 8, 8)).shape)"
    assert command(folder, "-c", check).stdout.strip() == "torch.Size([3, 10])"


@pytest.mark.slow
def test_a_predictor_of_graphs_and_a_data_set(folder: Path) -> None:
    arguments = shown("python -m raynas.search --space mine:Chain --trainable train")
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
        folder, "-m", "raynas.convert", "chains.csv", "chains.parquet", "--space", "mine:Chain", "--valid", "accuracy", "--epochs", 2
    )
    assert done.returncode == 0, done.stderr
    table = ["--space", "mine:Chain", "--table", "chains.parquet"]
    options = ("predictor=mine:GraphRidge", "num_initial=5", "pool=20")
    graph = [part for option in options for part in ("--set", f"searcher_options.bananas.{option}")]
    compared = command(
        folder, "-m", "raynas.compare", *table, "--searchers", "mine:Climb,bananas,evolution", *graph, "--seeds", 2, "--trials", 54
    )
    assert compared.returncode == 0, compared.stderr
    best = "select max(valid_accuracy), max(queries) from read_parquet(?) group by searcher"
    assert duckdb.execute(best, [str(folder / "comparison/curves.parquet")]).fetchall() == [(pytest.approx(0.7), 54)] * 3
    searched = command(folder, "-m", "raynas.search", *table, "--trials", 60, "--searcher", "mine:Climb", "--out", "runs/table")
    assert searched.returncode == 0, searched.stderr
    assert "The space holds no more architectures: 54 of 60 trials were possible" in searched.stdout
    assert "best validation accuracy 70.000 %" in searched.stdout


def test_ask_and_tell_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code = block("from searchers import Bananas, Engine")
    exec(code, {"my_evaluation": lambda arch: arch.id.count("nor_conv") / 6})
    assert "nor_conv" in capsys.readouterr().out
