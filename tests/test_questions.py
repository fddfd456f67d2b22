"""docs/questions.md: each question is asked in SQL and in pandas of a run with failures, stopped trials and retries."""

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from question_trials import FOLDER, KILLED

from raynas import results

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|sql)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEAD, *PARTS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
READ, READ_FOR_SQL, VIEWS = (code for _, code in BLOCK.findall(HEAD))
QUESTIONS = {part.partition("\n")[0]: dict(BLOCK.findall(part)) for part in PARTS}
BEST, FAILED, BETTER, PREDICTED, WAYS, NODES, TIMES, FRONT, EPOCHS, AGAIN, SEVERAL = QUESTIONS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "killed").mkdir()
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", FOLDER: str(folder / "killed")}
    common = ["--trainable", "question_trials:Trial", "--scheduler", "asha", "--max-epochs", "9"]
    model = ["--trials", "120", "--set", "searcher_options.num_initial=20", "--set", "searcher_options.pool=100"]
    for name, more in (("first", model), ("second", ["--trials", "20", "--searcher", "random"])):
        command = [sys.executable, "-m", "raynas.search", *common, *more, "--out", f"runs/{name}"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(autouse=True)
def here(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)


def in_pandas(question: str) -> pd.DataFrame:
    names: dict[str, Any] = {}
    exec(READ + QUESTIONS[question]["python"], names)
    answer: pd.DataFrame = names["answer"]
    return answer.reset_index(drop=True)


def rows() -> list[dict[str, Any]]:
    """What the run holds, for answers that are found in another way."""
    return results.read("runs/first").trials.to_pylist()


@pytest.mark.parametrize("source", ["reader", "file"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_both_answers_are_one(question: str, source: str) -> None:
    connection = duckdb.connect()
    if source == "file":
        connection.execute(VIEWS)
    else:
        names: dict[str, Any] = {}
        exec(READ_FOR_SQL, names)
        for name in ("trials", "reports", "started"):
            connection.register(name, names[name])
    found, expected = connection.sql(QUESTIONS[question]["sql"]).df(), in_pandas(question)
    assert len(found) > 0
    pd.testing.assert_frame_equal(found.astype(expected.dtypes), expected, check_dtype=False)


def test_there_are_ten_questions_and_one_about_several_runs() -> None:
    assert len(QUESTIONS) == 11
    assert all(set(answers) == {"sql", "python"} for answers in QUESTIONS.values())


# Answers that are found in another way


def test_the_best_and_the_front() -> None:
    finished = sorted((row for row in rows() if row["status"] == "finished"), key=lambda row: (-row["valid_accuracy"], row["arch_id"]))
    assert in_pandas(BEST)["arch_id"].tolist() == [row["arch_id"] for row in finished[:10]]
    front = {
        row["arch_id"]
        for row in finished
        if not any(
            other["parameters"] <= row["parameters"]
            and (other["valid_accuracy"], -other["parameters"]) > (row["valid_accuracy"], -row["parameters"])
            for other in finished
        )
    }
    assert set(in_pandas(FRONT)["arch_id"]) == front


def test_what_failed_and_was_tried_again(runs: Path) -> None:
    broken = [row for row in rows() if zlib.crc32(row["arch_id"].encode()) % 7 == 0 and row["epochs"] == 1 and row["status"] == "failed"]
    (failed,) = in_pandas(FAILED).to_dict("records")
    assert (failed["error"], failed["fault"], failed["trials"]) == ("ValueError: no such layer", "architecture", len(broken))
    again = in_pandas(AGAIN)
    lost = again[again["fault"] == "machine"]
    assert len(list((runs / "killed").iterdir())) == KILLED
    assert 0 < len(lost) <= KILLED
    assert len(again) == len(lost) + len(broken)
    assert all((runs / "runs" / "first" / path).is_file() for path in again["log_path"])
    assert "no such layer" in (runs / "runs" / "first" / failed["for_example"]).read_text()


def test_sums_and_means() -> None:
    table, reports = rows(), results.read("runs/first").reports.to_pylist()
    epochs = in_pandas(EPOCHS).set_index("status")
    assert epochs["epochs"].to_dict() == {
        status: sum(row["epochs"] or 0 for row in table if row["status"] == status) for status in epochs.index
    }
    assert epochs["share"].sum() == pytest.approx(1)
    assert in_pandas(NODES)["hours"].sum() == pytest.approx(sum(row["wall_seconds"] for row in table) / 3600)
    first = [report["valid_accuracy"] for report in reports if report["epoch"] == 1]
    better = in_pandas(BETTER)
    assert (better["mean"] * better["trials"]).sum() / len(first) == pytest.approx(sum(first) / len(first))
    told = [row for row in table if row["status"] == "finished" and row["predicted"] is not None]
    predicted = in_pandas(PREDICTED)
    errors = [abs(row["predicted"] - row["valid_accuracy"]) for row in told]
    assert (predicted["mean_error"] * predicted["trials"]).sum() == pytest.approx(sum(errors))
    assert in_pandas(TIMES)["queue_longest"].max() == max(row["queue_seconds"] for row in table)


def test_who_found_the_best() -> None:
    finished = [row for row in rows() if row["status"] == "finished"]
    best = max(finished, key=lambda row: row["valid_accuracy"])
    ways = in_pandas(WAYS)
    assert {"initial", "model"} <= set(ways["proposed_by"])
    assert (ways["proposed_by"][0], ways["best"][0], ways["trials"].sum()) == (best["proposed_by"], best["valid_accuracy"], 120)
    several = in_pandas(SEVERAL)
    assert sorted(several["trials"]) == [20, 120]
    assert several["best"].is_monotonic_decreasing
