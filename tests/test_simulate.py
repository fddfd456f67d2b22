"""The simulated cluster, and that it does what Ray does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raynas import results
from raynas.run.schedulers import make_scheduler
from raynas.simulate import Simulation
from raynas.spaces import make_space
from raynas.tables import Table, open_table
from searchers import SEARCHERS, Engine, Random, make_engine

BUDGETS = (4, 12, 36, 108)
QUICK: dict[str, dict[str, Any]] = {
    **{name: {"pool": 50, "predictor_options": {"epochs": 5}} for name in ("bananas", "bananas-paper")},
    "bohamiann": {"pool": 50, "predictor_options": {"chains": 2, "steps": 60, "burn_in": 30, "keep_every": 10}},
}


@pytest.fixture(scope="module")
def table() -> Table:
    """Invented learning curves that end at NAS-Bench-201's real accuracies; training takes 1 to 3 seconds an epoch."""
    real = open_table(None, "nasbench201", "cifar10")
    final = real.values("valid_accuracy")
    budgets = np.array(BUDGETS)
    curve = final[:, None] * (1 - 0.5 * np.exp(-budgets / 20))  # (n, B)
    seconds = budgets * np.random.default_rng(0).uniform(1, 3, size=(len(final), 1))
    metrics = {"valid_accuracy": curve[:, :, None], "train_seconds": seconds[:, :, None]}
    return Table.build(
        space="nasbench201", dataset="invented", ids=real.ids, metrics=metrics, budgets=BUDGETS, source="test", licence="none", sha256=""
    )


PROPOSING = [name for name, method in SEARCHERS.items() if not isinstance(method, str)]  # the others are trials


def engine(name: str, seed: int = 0) -> Engine:
    return make_engine(name, make_space("nasbench201"), QUICK.get(name, {}), seed=seed, max_budget=108)


@pytest.mark.parametrize("name", PROPOSING)
@pytest.mark.parametrize("scheduler", ["fifo", "asha", "hyperband", "median"])
def test_every_searcher_runs_with_every_scheduler(name: str, scheduler: str, table: Table) -> None:
    made = make_scheduler(scheduler, "valid_accuracy", "max", 108)
    ended = Simulation(engine(name), table, 40, workers=4, scheduler=made, failure_rate=0.3, straggler_rate=0.2).run()
    assert len({result.arch_id for result in ended}) == len(ended) == 40
    assert any(result.status == "failed" for result in ended)
    assert [result.ended for result in ended] == sorted(result.ended for result in ended)
    for result in ended:
        assert result.started <= result.ended
        if result.epochs:
            assert result.valid_accuracy == table.query(result.arch_id, result.epochs).valid_accuracy
        assert (result.status == "finished") <= (result.epochs == 108)
    if scheduler in ("fifo", "asha"):  # what the others stop depends on the trials they happen to see together
        assert any(result.status == "stopped" for result in ended) == (scheduler == "asha")


def test_hyperband_stops_what_is_worse(table: Table) -> None:
    scheduler = make_scheduler("hyperband", "valid_accuracy", "max", 108)
    ended = Simulation(engine("random"), table, 100, workers=20, scheduler=scheduler).run()
    assert len(ended) == 100
    stopped = [result for result in ended if result.status == "stopped"]
    assert len(stopped) > 10
    assert {result.epochs for result in stopped} <= {4, 12, 36}
    final = {
        status: np.mean([table.query(r.arch_id).valid_accuracy for r in ended if r.status == status]) for status in ("stopped", "finished")
    }
    assert final["stopped"] < final["finished"]


def test_the_clock_is_the_tables(table: Table) -> None:
    one = Simulation(Engine(Random(), max_budget=108), table, 20, workers=1)
    seconds = [table.query(result.arch_id).train_seconds for result in one.run()]
    assert one.now == pytest.approx(sum(s for s in seconds if s is not None))
    many = Simulation(Engine(Random(), max_budget=108), table, 20, workers=20)
    seconds = [table.query(result.arch_id).train_seconds for result in many.run()]
    assert [result.ended for result in many.results] == pytest.approx(seconds)  # they all began at 0, and come in as they end
    assert many.now == max(result.ended for result in many.results)


def test_it_ends_where_its_observer_says_so(table: Table) -> None:
    ended = Simulation(Engine(Random(), max_budget=108), table, 20, workers=3).run(lambda now: len(now.results) == 5)
    assert len(ended) == 5


def test_stragglers_take_longer(table: Table) -> None:
    quick, slow = (
        Simulation(Engine(Random(), max_budget=108), table, 10, straggler_rate=rate, straggler_factor=5.0) for rate in (0.0, 1.0)
    )
    quick.run()
    slow.run()
    assert slow.now == pytest.approx(5 * quick.now)


def test_a_run_is_a_function_of_its_seed(table: Table) -> None:
    first, again, other = (
        [result.arch_id for result in Simulation(engine("bananas", seed), table, 30, workers=3).run()] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.slow
def test_ray_and_the_simulation_propose_the_same_architectures(tmp_path: Path) -> None:
    flags = ["--trials", "30", "--concurrency", "1", "--seed", "5", "--out", "run", "--set", "searcher_options.pool=50"]
    done = subprocess.run(
        [sys.executable, "-m", "raynas.search", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    on_ray = [row["arch_id"] for row in results.read(str(tmp_path / "run")).trials.to_pylist()]
    real = open_table(None, "nasbench201", "cifar10")
    same = make_engine("bananas", make_space("nasbench201"), {"pool": 50}, seed=5, max_budget=200)
    assert [result.arch_id for result in Simulation(same, real, 30).run()] == on_ray


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raynas.compare", "--out", "out", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_compare_is_complete_resumable_and_repeatable(tmp_path: Path) -> None:
    import pandas as pd

    flags = ["--searchers", "random,evolution", "--trials", "20", "--workers", "2"]
    done = compare(tmp_path, *flags, "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "random" in done.stdout
    assert "8.393" in done.stdout  # the optimum of the table
    first = pd.read_parquet(tmp_path / "out" / "curves.parquet")
    assert len(first) == 2 * 2 * 20
    assert list(first.columns[:7]) == ["searcher", "scheduler", "seed", "queries", "simulated_seconds", "valid_accuracy", "test_accuracy"]
    for _, run in first.groupby(["searcher", "seed"]):
        assert run["queries"].tolist() == list(range(1, 21))
        assert run["valid_accuracy"].is_monotonic_increasing
        assert run["simulated_seconds"].is_monotonic_increasing
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    kept = tmp_path / "out" / "parts" / "random-fifo-0.parquet"
    written = kept.stat().st_mtime_ns
    more = compare(tmp_path, *flags, "--seeds", "3")
    assert more.returncode == 0, more.stderr
    assert kept.stat().st_mtime_ns == written
    both = pd.read_parquet(tmp_path / "out" / "curves.parquet")
    pd.testing.assert_frame_equal(both[both["seed"] < 2].reset_index(drop=True), first)
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    last = both[both["queries"] == 20].groupby("searcher")["valid_accuracy"].mean()
    shown = summary[summary["queries"] == 20].set_index("searcher")["valid_error_mean"]
    assert shown.to_dict() == pytest.approx((100 * (1 - last)).to_dict())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["config"]["trials"] == 20
    other = compare(tmp_path, "--searchers", "random", "--trials", "30")
    assert other.returncode == 2
    assert "trials = 20" in other.stderr


BAD = {
    "searcher": (["--searchers", "random,bananna"], "'bananas'"),
    "no searcher": (["--searchers", ""], "--searchers names none"),
    "one-shot": (["--searchers", "random,darts"], "darts trains networks"),
    "scheduler": (["--schedulers", "ashaa"], "'asha'"),
    "no scheduler": (["--schedulers", " , "], "--schedulers names none"),
    "seeds": (["--seeds", "0"], "seeds = 0"),
    "options": (["--set", "searcher_options.evolution.pool=3"], "'evolution' 'pool'"),
    "stranger": (["--searchers", "random", "--set", "searcher_options.evolution.tournament=3"], "does not take part"),
    "table": (["--table", "nowhere.parquet"], "nowhere.parquet"),
    "repeat": (["--repeat", "9"], "no repeat 9"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_line(case: str, tmp_path: Path) -> None:
    arguments, words = BAD[case]
    done = compare(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_comparison_may_live_on_any_storage(tmp_path: Path) -> None:
    flags = ["--searchers", "random", "--trials", "12", "--seeds", "2"]
    plain = compare(tmp_path, *flags)
    there = compare(tmp_path, *flags, "--out", f"file://{tmp_path}/there")
    assert (plain.returncode, there.returncode) == (0, 0), there.stderr
    for name in ("curves.parquet", "summary.csv", "curves.png"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not (tmp_path / "file:").exists()
    part = next((tmp_path / "there" / "parts").iterdir())
    part.write_bytes(b"PAR1 no more PAR1")
    damaged = compare(tmp_path, *flags, "--out", f"file://{tmp_path}/there")
    assert damaged.returncode == 2
    assert damaged.stderr.strip().count("\n") == 0
    assert part.name in damaged.stderr


def test_a_method_that_never_works_is_not_compared(tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from raynas.compare import main; sys.exit(main(sys.argv[1:]))"
    flags = ["--searchers", "own_trials:propose_nothing", "--trials", "14", "--seeds", "1", "--processes", "1", "--out", "out"]
    command = [sys.executable, "-c", code, str(Path(__file__).parent), *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: own_trials:propose_nothing never proposed anything: RuntimeError")
    assert not list((tmp_path / "out" / "parts").iterdir())
