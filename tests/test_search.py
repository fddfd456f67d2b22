"""The command `python -m raynas.search`, run as a user runs it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raynas import results, storage
from raynas.run.schedulers import make_scheduler, replay
from raynas.spaces import make_space
from raynas.tables import Table, open_table

BUDGETS = (4, 12, 36, 108)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "raynas.search", *map(str, arguments)]


def search(folder: Path, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="session")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with four budgets: invented learning curves that end at NAS-Bench-201's real accuracies."""
    real = open_table(None, "nasbench201", "cifar10")
    final = real.values("valid_accuracy")
    budgets = np.array(BUDGETS)
    curve = final[:, None] * (1 - 0.5 * np.exp(-budgets / 20))  # (n, B)
    seconds = np.broadcast_to(10.0 * budgets, curve.shape)
    path = tmp_path_factory.mktemp("table") / "curves.parquet"
    metrics = {"valid_accuracy": curve[:, :, None], "train_seconds": seconds[:, :, None]}
    table = Table.build(
        space="nasbench201", dataset="invented", ids=real.ids, metrics=metrics, budgets=BUDGETS, source="test", licence="none", sha256=""
    )
    table.write(path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a small finished run, and what the command printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = search(folder, "--trials", 40, "--out", "run", "--tensorboard-trials")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout + done.stderr


def test_run_folder_keeps_the_contract(finished: tuple[Path, str]) -> None:
    run, printed = finished
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["trials"] == 40
    assert config["config"]["searcher"] == "bananas"
    assert config["versions"]["ray"].startswith("2.60")
    assert config["ended"] == {"at": config["ended"]["at"], "how": "complete", "why": None}
    assert config["started_at"] <= config["ended"]["at"]
    trials = results.read(str(run)).trials.to_pylist()
    assert [row["order"] for row in trials] == list(range(40))
    assert {row["status"] for row in trials} == {"finished"}
    assert len({row["arch_id"] for row in trials}) == 40
    table, space = open_table(None, "nasbench201", "cifar10"), make_space("nasbench201")
    for row in trials:
        assert row["valid_accuracy"] == pytest.approx(table.query(row["arch_id"]).valid_accuracy)
        arch = space.from_config(json.loads(row["arch"]))
        assert arch.id == row["arch_id"]
        assert (row["parameters"], row["flops"]) == tuple(space.cost(arch))
        assert row["epochs"] == 200
        assert row["test_accuracy"] is None
        assert row["started_at"] <= row["ended_at"]
    best = json.loads((run / "best.json").read_text())
    top = max(trials, key=lambda row: row["valid_accuracy"])
    assert best["arch_id"] == top["arch_id"]
    assert best["valid_accuracy"] == top["valid_accuracy"]
    assert top["arch_id"] in printed
    assert "points below the best of the table, 91.607 %" in printed
    assert "Traceback" not in printed
    assert "WARNING" not in printed


def test_rows_say_how_their_trials_were_proposed_and_what_was_expected(finished: tuple[Path, str]) -> None:
    rows = results.read(str(finished[0])).trials.to_pylist()
    assert sum(row["proposed_by"] == "initial" for row in rows) == 10  # mostly the first ones, but they need not begin in their order
    asked = [row for row in rows if row["proposed_by"] == "model"]
    assert len(asked) > 20
    known = {row["arch_id"] for row in rows}
    assert {row["parent"] for row in asked if row["parent"] in known}
    assert all(0 < row["predicted"] < 1 and row["predicted_deviation"] >= 0 and row["acquisition"] is not None for row in asked)
    errors = [abs(row["predicted"] - row["valid_accuracy"]) for row in asked]
    assert sum(errors) / len(errors) < 0.2
    assert all(row["queue_seconds"] >= 0 for row in rows)
    (run_id,) = {row["run_id"] for row in rows}
    config = json.loads((finished[0] / "config.json").read_text())
    assert run_id == config["run_id"]
    assert config["dirty"] in (True, False, None)
    assert {(row["cpus"], row["gpus"]) for row in rows} == {(1.0, 0.0)}


def test_duckdb_reads_the_results(finished: tuple[Path, str]) -> None:
    query = "select count(*), count(distinct arch_id), max(valid_accuracy) from read_parquet(?)"
    row = duckdb.execute(query, [str(finished[0] / "trials.parquet")]).fetchone()
    assert row is not None
    assert row[:2] == (40, 40)
    assert 0.85 < row[2] <= 0.91607
    reports = duckdb.execute("select count(*) from read_parquet(?)", [str(finished[0] / "reports.parquet")]).fetchone()
    assert reports == (40,)


def test_tensorboard_reads_the_summary(finished: tuple[Path, str]) -> None:
    events = EventAccumulator(str(finished[0] / "tensorboard" / "summary"))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("incumbent/valid_accuracy")]
    assert [step for step, _ in curve] == list(range(1, 41))
    assert [value for _, value in curve] == sorted(value for _, value in curve)
    assert {"predictor/mae", "predictor/rank_correlation", "predictor/refit_seconds", "incumbent/valid_accuracy_by_seconds"} <= set(
        events.Tags()["scalars"]
    )
    assert len(list((finished[0] / "tensorboard" / "trials").iterdir())) == 40


def test_a_used_folder_is_not_overwritten(finished: tuple[Path, str]) -> None:
    again = search(finished[0].parent, "--out", "run", "--trials", 2)
    assert again.returncode == 2
    assert again.stderr.strip().count("\n") == 0
    assert "--resume run" in again.stderr


def test_a_finished_run_can_be_extended(finished: tuple[Path, str]) -> None:
    before = {row["trial_id"]: row for row in results.read(str(finished[0])).trials.to_pylist()}
    more = search(finished[0].parent, "--resume", "run", "--trials", 45)
    assert more.returncode == 0, more.stderr
    rows = results.read(str(finished[0])).trials.to_pylist()
    assert len({row["arch_id"] for row in rows}) == len(rows) == 45
    assert all(row == before[row["trial_id"]] for row in rows if row["trial_id"] in before)


def rows_so_far(run: str) -> list[dict[str, Any]]:
    return results.read(run).trials.to_pylist() if (Path(run) / "config.json").exists() else []


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing(curves: Path, tmp_path: Path) -> None:
    asked, moments = 60, random.Random(0)
    run = str(tmp_path / "run")
    flags = (
        "--scheduler",
        "asha",
        "--table",
        curves,
        "--trials",
        asked,
        "--out",
        run,
        "--set",
        "trainable_options.seconds_per_report=0.15",
    )
    arguments: tuple[object, ...] = flags
    known: dict[str, dict[str, Any]] = {}
    for _ in range(4):
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(rows_so_far(run)) < len(known) + 3:
            time.sleep(0.2)
        time.sleep(moments.random())
        arguments = ("--resume", run)
        known |= {row["trial_id"]: row for row in rows_so_far(run)}
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert storage.read_json(run, "config.json")["ended"] is None
    assert 0 < len(known) < asked
    done = search(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert storage.read_json(run, "config.json")["ended"]["how"] == "complete"
    tables = results.read(run)
    rows = tables.trials.to_pylist()
    assert len(rows) == len({row["arch_id"] for row in rows}) == asked
    assert all(row["proposed_by"] in ("initial", "model", "stopgap") for row in rows)  # as before the kill, not "given"
    assert {row["trial_id"]: row for row in rows if row["trial_id"] in known} == known
    assert sum(row["status"] == "stopped" for row in rows) > asked / 4
    # ASHA saw every report once: the rungs hold exactly the trials that reached them.
    reports = tables.reports.to_pylist()
    assert len({(row["trial_id"], row["epoch"]) for row in reports}) == len(reports)
    assert {row["epoch"] for row in reports} <= set(BUDGETS)
    for row in rows:
        reached = [report["epoch"] for report in reports if report["trial_id"] == row["trial_id"]]
        assert reached == [budget for budget in BUDGETS if budget <= row["epochs"]]


def test_replayed_asha_has_the_rungs_of_the_reports(curves: Path, tmp_path: Path) -> None:
    done = search(tmp_path, "--scheduler", "asha", "--table", curves, "--trials", 30, "--searcher", "random", "--out", "run")
    assert done.returncode == 0, done.stderr
    tables = results.read(str(tmp_path / "run"))
    scheduler = make_scheduler("asha", "valid_accuracy", "max", 108)
    replay(scheduler, tables)
    rungs = {int(milestone): recorded for milestone, recorded in scheduler._brackets[0]._rungs}
    reports = tables.reports.to_pylist()
    for milestone in (4, 12, 36):
        assert rungs[milestone] == {r["trial_id"]: r["valid_accuracy"] for r in reports if r["epoch"] == milestone}
    assert len(rungs[4]) == 30 > len(rungs[12]) > len(rungs[36])


@pytest.mark.parametrize("scheduler", ["hyperband", "median"])
def test_other_schedulers(scheduler: str, curves: Path, tmp_path: Path) -> None:
    done = search(tmp_path, "--scheduler", scheduler, "--table", curves, "--trials", 20, "--searcher", "evolution", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert len(results.read(str(tmp_path / "run")).trials) == 20


def test_ctrl_c_exits_130_and_says_how_to_go_on(curves: Path, tmp_path: Path) -> None:
    flags = ("--table", curves, "--trials", 200, "--out", "run", "--set", "trainable_options.seconds_per_report=0.05")
    process = subprocess.Popen(command(*flags), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("run/parts/trials-*.parquet")):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert "python -m raynas.search --resume run" in printed
    assert "Traceback" not in printed
    ended = storage.read_json(str(tmp_path / "run"), "config.json")["ended"]
    assert (ended["how"], ended["why"]) == ("interrupted", "SIGINT")
    before = results.read(str(tmp_path / "run")).trials
    assert 0 < len(before) < 200
    done = search(tmp_path, "--resume", "run", "--trials", len(before) + 5)
    assert done.returncode == 0, done.stderr
    assert len(results.read(str(tmp_path / "run")).trials) == len(before) + 5


def test_two_searches_on_one_machine_do_not_meet(curves: Path, tmp_path: Path) -> None:
    flags = (
        "--table",
        curves,
        "--trials",
        500,  # more than it can end meanwhile, on whatever machine
        "--searcher",
        "random",
        "--set",
        "trainable_options.seconds_per_report=0.3",
        "--out",
        "slow",
    )
    slow = subprocess.Popen(command(*flags), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while slow.poll() is None and not list(tmp_path.glob("slow/parts/started-*.parquet")):
        time.sleep(0.1)
    quick = search(tmp_path, "--trials", 3, "--searcher", "random", "--out", "quick")
    assert quick.returncode == 0, quick.stderr
    assert slow.poll() is None
    slow.terminate()
    printed = slow.communicate(timeout=120)[0]
    assert slow.returncode == 143, printed
    assert {row["status"] for row in results.read(str(tmp_path / "slow")).trials.to_pylist()} == {"finished"}


BAD = {
    "space": (["--space", "nasbench2001"], ["nasbench201", "darts"]),
    "searcher": (["--searcher", "bananna"], ["'bananas'", "random"]),
    "scheduler": (["--scheduler", "ashaa"], ["'asha'", "median"]),
    "trainable": (["--trainable", "lokup"], ["'lookup'"]),
    "flag": (["--trails", "3"], ["--trials"]),
    "key": (["--set", "trails=3"], ["'trials'", "searcher_options"]),
    "option": (["--set", "searcher_options.pol=3"], ["'pool'", "parents"]),
    "option type": (["--set", "searcher_options.pool=many"], ["pool", "'many'", "integer"]),
    "option value": (["--set", "searcher_options.pool=0"], ["at least 1"]),
    "option of the command": (["--set", "searcher_options.metric=x"], ["metric", "the command sets it"]),
    "no trials": (["--trials", "0"], ["trials = 0", "greater than 0"]),
    "no number": (["--trials", "many"], ["--trials", "'many'"]),
    "no assignment": (["--set", "trials"], ["KEY=VALUE"]),
    "missing table": (["--table", "nowhere.parquet"], ["nowhere.parquet", "raynas.convert"]),
    "missing configuration": (["--config", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
    "no table of the space": (["--space", "darts"], ["--table"]),
    "dataset": (["--dataset", "cifar1000"], ["'cifar100'", "imagenet"]),
    "too few epochs": (["--max-epochs", "3"], ["3", "200"]),
    "missing run": (["--resume", "nowhere"], ["nowhere/config.json"]),
    "missing cluster": (["--address", "127.0.0.1:1"], ["127.0.0.1:1", "--address"]),
    "more GPUs than there are": (["--gpus-per-trial", "3", "--out", "gpus"], ["3", "0 GPUs"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_line(case: str, tmp_path: Path) -> None:
    arguments, words = BAD[case]
    done = search(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert not list(tmp_path.rglob("config.json"))


def test_bad_yaml(tmp_path: Path) -> None:
    for text, word in (("trials: [", "YAML"), ("- 1", "keys and values"), ("trials: '5'", "trials"), ("trails: 5", "'trials'")):
        (tmp_path / "bad.yaml").write_text(text)
        done = search(tmp_path, "--config", "bad.yaml")
        assert done.returncode == 2
        assert word in done.stderr
        assert done.stderr.count("\n") == 1


def test_table_of_another_space(curves: Path, tmp_path: Path) -> None:
    done = search(tmp_path, "--space", "nasbench101", "--table", curves)
    assert done.returncode == 2
    assert "nasbench201" in done.stderr
    assert "nasbench101" in done.stderr


def test_resume_refuses_another_search_and_damage(finished: tuple[Path, str]) -> None:
    run = finished[0]
    other = search(run.parent, "--resume", "run", "--space", "darts")
    assert other.returncode == 2
    assert "nasbench201" in other.stderr
    assert "darts" in other.stderr
    part = run / "parts" / "trials-00000001-0123abcd.parquet"
    part.write_bytes(b"PAR1 no more PAR1")
    damaged = search(run.parent, "--resume", "run", "--trials", 1000)
    part.unlink()
    assert damaged.returncode == 2
    assert part.name in damaged.stderr
    assert damaged.stderr.count("\n") == 1


def test_configuration_from_yaml_flags_and_set(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text("searcher: random\ntrials: 3\nsearcher_options: {num_initial: 2}\n")
    done = search(tmp_path, "--config", "search.yaml", "--set", "seed=7", "--trials", 4, "--out", f"file://{tmp_path}/run")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["searcher"], config["trials"], config["seed"]) == ("random", 4, 7)
    assert config["searcher_options"] == {"num_initial": 2}
    assert len(results.read(f"file://{tmp_path}/run").trials) == 4
