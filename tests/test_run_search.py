"""Searches from Python, trainables as users write them, results of other runs, and runs that fail: each in a process of its own."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raynas import results, storage
from raynas.errors import ResultsError
from raynas.run.settings import resumed_run
from raynas.tables import Table, open_table

TESTS = Path(__file__).parent


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths, "OWN_TRIALS_LOG": os.devnull}


def python(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=180, check=False)


def search(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "raynas.search", *arguments)


def rows(run: Path) -> list[dict[str, Any]]:
    return results.read(str(run)).trials.to_pylist()


# -- from Python ---------------------------------------------------------------------------------------------------------

SESSION = """
import json, ray, raynas, own_trials
from raynas.errors import ConfigError
from searchers import Random

if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, log_to_driver=False)
    run = raynas.run_search(trainable=own_trials.Plain, searcher=Random, trials=4, out="run", max_epochs=2)
    assert ray.is_initialized()
    assert (run.complete, run.failed, run.counts) == (True, False, {"finished": 4, "stopped": 0, "failed": 0})
    assert run.config.trainable == "own_trials:Plain" and run.config.searcher == "random"
    assert run.best["arch"]["id"] == run.recommended.id == max(run.tables.trials.to_pylist(), key=lambda r: r["valid_accuracy"])["arch_id"]
    try:
        raynas.run_search(trials=2, address="127.0.0.1:1", out="other")
    except ConfigError as error:
        assert "Ray is initialised already" in str(error), error
    more = raynas.resume_search("run", trials=6)
    assert len(more.tables.trials) == 6 and more.folder == "run"
    ray.shutdown()
    own = raynas.run_search(trainable=own_trials.measure, searcher="random", trials=2, out="own", show=True)
    assert not ray.is_initialized()
    assert own.tables.trials["epochs"].to_pylist() == [1, 1], own.tables.trials.to_pylist()
    try:
        raynas.run_search(trails=2)
    except raynas.RaynasError as error:
        print(json.dumps(str(error)))
"""


def test_a_search_from_python(tmp_path: Path) -> None:
    (tmp_path / "session.py").write_text(SESSION)
    done = python(tmp_path, "session.py")
    assert done.returncode == 0, done.stdout + done.stderr
    first, cluster, *_, last = done.stdout.strip().splitlines()
    assert first == "random searches nasbench201: 2 trials; results go to own"  # what was not to be shown was not
    assert cluster.startswith("Ray cluster: a local one, ")
    assert cluster.endswith(" at once")
    assert "did you mean 'trials'" in json.loads(last)
    assert "Best architecture" in done.stdout
    assert {row["status"] for row in rows(tmp_path / "run")} == {"finished"}
    assert storage.read_json(str(tmp_path / "run"), "config.json")["config"]["trials"] == 6


INTERRUPTED = """
import own_trials, ray, raynas

if __name__ == "__main__":
    try:
        raynas.run_search(trainable=own_trials.Slow, searcher="random", trials=500, out="run")
    except KeyboardInterrupt as error:
        print(error, ray.is_initialized())
"""


def test_ctrl_c_in_python_is_raised_after_the_run_is_closed(tmp_path: Path) -> None:
    (tmp_path / "session.py").write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, "session.py"], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not list(tmp_path.glob("run/parts/trials-*.parquet")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=100)
    ended = len(rows(tmp_path / "run"))
    assert 0 < ended < 500
    assert printed.strip() == f"interrupted after {ended} of 500 trials; raynas.resume_search('run') goes on False", errors
    assert (tmp_path / "run" / "best.json").exists()


# -- trainables as users write them --------------------------------------------------------------------------------------


def test_a_class_need_not_know_more_than_tune(tmp_path: Path) -> None:
    flags = ["--trainable", "own_trials:Plain", "--searcher", "random", "--trials", 4, "--concurrency", 1, "--out", "run"]
    done = search(tmp_path, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(tmp_path / "run")
    assert [(row["status"], row["epochs"]) for row in found] == [("finished", 2)] * 4  # one actor, none of them reused
    assert all(row["parameters"] > 0 for row in found)
    assert "parameters" in done.stdout
    stopping = search(tmp_path, *flags[:-1], "stopped", "--scheduler", "asha")
    assert (stopping.returncode, stopping.stderr.count("\n")) == (2, 1)
    assert "--max-epochs" in stopping.stderr
    assert not (tmp_path / "stopped").exists()


def test_a_class_that_never_ends_ends_at_the_full_budget(tmp_path: Path) -> None:
    flags = ["--trainable", "own_trials:Endless", "--searcher", "own_trials:propose_nothing", "--set", "searcher_options.num_initial=1"]
    done = search(tmp_path, *flags, "--max-epochs", 3, "--trials", 3, "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["status"] for row in rows(tmp_path / "run")] == ["finished"] * 3
    reports = results.read(str(tmp_path / "run")).reports.to_pylist()
    assert [report["epoch"] for report in reports] == [1, 2, 3] * 3
    assert min(report["wall_seconds"] for report in reports) >= 0
    assert "never proposed anything, so this was random search: RuntimeError: nothing comes to mind" in done.stdout.replace("\n", " ")
    (tmp_path / "run" / "config.json").unlink()
    again = search(tmp_path, *flags, "--trials", 3, "--out", "run")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "already holds a run" in again.stderr
    for damage in ("[1]", '{"config": null}', "5"):
        (tmp_path / "run" / "config.json").write_text(damage)
        damaged = search(tmp_path, "--resume", "run")
        assert (damaged.returncode, damaged.stderr.count("\n")) == (2, 1)
        assert "config.json is damaged" in damaged.stderr


def test_objectives_of_ones_own(tmp_path: Path) -> None:
    flags = ["--trainable", "own_trials:Timed", "--searcher", "random", "--trials", 4, "--out", "run"]
    done = search(tmp_path, *flags, "--objective", "-latency", "--objective", "valid_accuracy", "--limit", "latency<=1e9")
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(tmp_path / "run")
    best = storage.read_json(str(tmp_path / "run"), "best.json")
    assert best["latency"] == min(row["latency"] for row in found)
    assert f"latency             {best['latency']:.6g} ms" in done.stdout
    front = results.read_front(str(tmp_path / "run")).to_pylist()
    assert best["arch_id"] in {row["arch_id"] for row in front}
    assert {row["trial_id"] for row in front} <= {row["trial_id"] for row in found}
    assert f"Front:       {len(front)} architecture" in done.stdout
    assert "above the worst of the first trials (latency " in done.stdout
    declared = search(tmp_path, *flags[:-1], "other", "--objective", "latency", "--set", "metrics.latency.low=1000")
    assert declared.returncode == 1
    assert "is outside of [1000, inf]" in declared.stdout
    one = search(tmp_path, *flags[:3], "tpe", "--out", "x", "--objective", "-latency", "--objective", "valid_accuracy")
    assert (one.returncode, one.stderr.count("\n")) == (2, 1)
    assert "one objective, not 2" in one.stderr


def test_a_search_with_two_objectives(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "search.md").read_text(encoding="utf-8")
    (command,) = (line for line in page.splitlines() if "--objective -parameters" in line)
    done = search(tmp_path, *shlex.split(command)[3:], "--trials", 30)
    assert done.returncode == 0, done.stdout + done.stderr
    run, found = str(tmp_path / "runs" / "front"), rows(tmp_path / "runs" / "front")
    front = results.read_front(run).to_pylist()
    assert {row["trial_id"] for row in front} == {
        row["trial_id"]
        for row in found
        if not any(
            (other["valid_accuracy"] >= row["valid_accuracy"] and other["parameters"] <= row["parameters"])
            and (other["valid_accuracy"], other["parameters"]) != (row["valid_accuracy"], row["parameters"])
            for other in found
        )
    }
    assert all(row["flops"] <= 60e6 for row in found)
    assert f"Front:       {len(front)} architecture" in done.stdout
    assert storage.read_json(run, "best.json")["valid_accuracy"] == max(row["valid_accuracy"] for row in front)
    again = search(tmp_path, "--resume", "runs/front", "--trials", 34)
    assert again.returncode == 0, again.stdout + again.stderr
    volumes = [float(text.partition("hypervolume ")[2].split()[0]) for text in (done.stdout, again.stdout)]
    assert volumes == sorted(volumes)
    alone = search(tmp_path, "--searcher", "random", "--trials", 3, "--out", "alone")
    assert alone.returncode == 0
    with pytest.raises(ResultsError, match=r"has no front\.parquet"):
        results.read_front(str(tmp_path / "alone"))


def test_a_metric_of_another_name_is_named(tmp_path: Path) -> None:
    done = search(tmp_path, "--trainable", "own_trials:Misnamed", "--searcher", "random", "--trials", 3, "--out", "run")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the last report has no valid_accuracy; it has epoch, accuracy" in done.stdout
    assert "3 of 3 trials failed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert [row["status"] for row in rows(tmp_path / "run")] == ["failed"] * 3


@pytest.mark.parametrize(("share", "code"), [(None, 1), (0.99, 0)])
def test_a_run_in_which_many_trials_fail_fails(share: float | None, code: int, tmp_path: Path) -> None:
    some = {"space": "nasbench201", "id": "", "arch": "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"}
    flags = ["--set", f"searcher_options.points_to_evaluate={json.dumps([some])}", *(["--max-failed-share", share] if share else [])]
    done = search(tmp_path, "--trainable", "own_trials:Choosy", "--searcher", "random", "--trials", 8, "--seed", 1, "--out", "run", *flags)
    assert done.returncode == code, done.stdout + done.stderr
    failed = sum(row["status"] == "failed" for row in rows(tmp_path / "run"))
    assert 4 < failed < 8
    assert (f"{failed} of 8 trials failed, most often for these reasons:" in done.stdout) == bool(code)
    assert (f"{failed} trials failed: RuntimeError: no memory for |" in done.stdout) == bool(code)


BAD = {
    "a trial takes nothing": (["--cpus-per-trial", 0], "--cpus-per-trial or --gpus-per-trial above 0"),
    "scheduler": (["--scheduler", "asha", "--max-epochs", 200, "--set", "scheduler_options.max_t=5"], "scheduler 'asha' cannot be made"),
    "no architecture": (["--set", "searcher_options.points_to_evaluate=[abc]"], "not as 'abc'"),
    "no list of architectures": (["--set", "searcher_options.points_to_evaluate=abc"], "list of architectures"),
    "another class": (["--trainable", "own_trials:NoTrainable"], "must be a subclass of ray.tune.Trainable or a function"),
    "a function of nothing": (["--trainable", "own_trials:of_nothing"], "must be a subclass of ray.tune.Trainable or a function"),
    "no class at all": (["--trainable", "own_trials:LOG"], "must be a subclass of ray.tune.Trainable or a function"),
    "no space": (["--space", "own_trials:NoTrainable"], "own_trials:NoTrainable"),
    "an unfinished space": (["--space", "own_trials:Unfinished"], "cost, from_config, mutate, neighbors, paths"),
    "no searcher": (["--searcher", "own_trials:NoTrainable"], "own_trials:NoTrainable"),
    "a broken searcher": (["--searcher", "own_trials:Broken"], "ValueError: there is no oracle"),
    "a column that is no metric": (["--searcher", "random", "--objective", "order"], "order is a column of the tables that is no metric"),
    "objective": (["--objective", "test_accuracy"], "a search must not see it"),
    "limit": (["--limit", "parameters<3"], "METRIC<=NUMBER"),
    "declaration": (["--set", "metrics.latency.directon=min"], "did you mean 'direction'"),
    "recipe of a lookup": (["--recipe", "quick"], "takes no recipe"),
    "two recipes": (
        ["--trainable", "train", "--dataset", "digits", "--recipe", "quick", "--set", "trainable_options.recipe=quick"],
        "given twice",
    ),
    "a space without whole costs": (["--space", "own_trials:CostlySpace"], "parameters of cost(arch) must be a whole number"),
    "a space that fails": (["--space", "own_trials:FailingSpace"], "the space 'own_trials:FailingSpace' raised RuntimeError"),
    "a function that is no method": (["--searcher", "own_trials:propose_one"], "must be a function of (space, history, rng, count)"),
    "no checkpoints": (["--trainable", "own_trials:Plain", "--scheduler", "median", "--max-epochs", 2], "define save_checkpoint"),
    "share": (["--max-failed-share", 2], "max_failed_share = 2.0 is not allowed"),
    "warm start from nowhere": (["--warm-start", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_get_one_line_and_leave_nothing(case: str, tmp_path: Path) -> None:
    flags, words = BAD[case]
    done = search(tmp_path, *flags, "--out", "run")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert not (tmp_path / "run").exists()


# -- what is searched, and what is printed -------------------------------------------------------------------------------


def test_a_search_stays_within_a_partial_table(tmp_path: Path) -> None:
    whole = open_table(None, "nasbench201", "cifar10")
    ids, values = whole.ids[::500], whole.values("valid_accuracy")[::500]
    metrics = {"valid_accuracy": values.reshape(-1, 1, 1)}
    about: dict[str, Any] = {"source": "test", "licence": "none", "sha256": ""}
    Table.build(space="nasbench201", dataset="mine", ids=ids, metrics=metrics, budgets=(200,), **about).write(tmp_path / "part.parquet")
    done = search(tmp_path, "--table", "part.parquet", "--trials", 40, "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(tmp_path / "run")
    assert {row["status"] for row in found} == {"finished"}
    assert len(found) == len(ids) == 32
    assert "The space holds no more architectures: 32 of 40 trials were possible." in done.stdout
    assert "--dataset DATASET   (DATASET: images to train on, as folder:PATH or module:function)" in done.stdout
    assert " searches nasbench201: " in done.stdout


def test_the_printed_command_trains_on_the_data_set_of_the_lookups(tmp_path: Path) -> None:
    done = search(tmp_path, "--dataset", "cifar100", "--searcher", "random", "--trials", 2, "--out", "run")
    assert done.returncode == 0, done.stderr
    command = "python -m raynas.train --arch run/best.json --dataset cifar100"
    assert f"Train it:    {command}\n" in done.stdout
    assert storage.read_json(str(tmp_path / "run"), "best.json")["train"] == command


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: quick\nepochs: 1\n")
    flags = ["--trainable", "train", "--dataset", "digits", "--recipe", "mine.yaml", "--set", "recipe.batch_size=256"]
    done = search(tmp_path, *flags, "--searcher", "random", "--trials", 1, "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    recipe = storage.read_json(str(tmp_path / "run"), "config.json")["config"]["recipe"]
    assert recipe == {"base": "quick", "epochs": 1, "batch_size": 256}
    assert [row["epochs"] for row in rows(tmp_path / "run")] == [1]
    assert "--dataset digits --recipe quick --set recipe.epochs=1 --set recipe.batch_size=256" in done.stdout


# -- earlier results -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds `run`, of 14 trials."""
    folder = tmp_path_factory.mktemp("finished")
    done = search(folder, "--searcher", "random", "--trials", 14, "--out", "run")
    assert done.returncode == 0, done.stderr
    return folder


def test_results_of_another_run_count_as_known(finished: Path) -> None:
    done = search(finished, "--warm-start", "run", "--trials", 5, "--out", "warm")
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = ({row["arch_id"] for row in rows(finished / name)} for name in ("run", "warm"))
    assert len(after) == 5
    assert not before & after
    config = storage.read_json(str(finished / "warm"), "config.json")["config"]
    assert config["warm_start"] == [str(finished / "run")]
    more = search(finished, "--resume", "warm", "--trials", 6)
    assert more.returncode == 0, more.stderr
    assert len({row["arch_id"] for row in rows(finished / "warm")} - before) == 6
    (finished / "run").rename(finished / "moved")
    gone = search(finished, "--resume", "warm", "--trials", 7)
    (finished / "moved").rename(finished / "run")
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1)
    assert "--warm-start" in gone.stderr
    assert str(finished / "run") in gone.stderr


def test_a_model_learns_from_the_results_of_another_run_at_once(finished: Path) -> None:
    """BANANAS proposes from its first trial on: the initial random architectures are those of the other run."""
    done = search(finished, "--warm-start", "run", "--trials", 3, "--out", "taught")
    assert done.returncode == 0, done.stderr
    best = max(row["valid_accuracy"] for row in rows(finished / "run"))
    assert min(row["valid_accuracy"] for row in rows(finished / "taught")) > best - 0.1  # random ones have 0.1 to 0.91


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--space", "darts", "--trainable", "train", "--dataset", "digits"], "of another space, nasbench201 and not darts"),
        (["--dataset", "cifar100", "--warm-start", "nowhere"], "nowhere"),
    ],
)
def test_results_of_something_else_are_refused(flags: list[str], words: str, finished: Path) -> None:
    done = search(finished, *flags, "--warm-start", "run", "--out", "refused")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert words in done.stderr
    assert not (finished / "refused").exists()


def test_results_of_another_data_set_are_a_prior(finished: Path) -> None:
    given = ["--dataset", "cifar100", "--warm-start", "run", "--out", "informed"]
    done = search(finished, *given, "--trials", 12)
    assert done.returncode == 0, done.stdout + done.stderr
    said = f"prior: 14 results of {finished / 'run'} (another data set, cifar10 and not cifar100): its best come first"
    assert f"{said}, among random ones, and the model learns what differs" in done.stdout
    best = [row["arch_id"] for row in sorted(rows(finished / "run"), key=lambda row: -row["valid_accuracy"])]
    first = [row["arch_id"] for row in rows(finished / "informed") if row["proposed_by"] == "prior"]
    begun = [row["arch_id"] for row in rows(finished / "informed") if row["proposed_by"] in ("prior", "initial")]
    assert set(first) <= set(best)
    assert set(best[: len(first)]) <= set(begun)  # of the same seed, so that a random one may be one of the best
    assert len(first) >= 4
    more = search(finished, "--resume", "informed", "--trials", 13)
    assert more.returncode == 0, more.stderr
    assert said in more.stdout
    assert len({row["arch_id"] for row in rows(finished / "informed")}) == 13


def test_a_run_is_no_start_of_itself(tmp_path: Path) -> None:
    done = search(tmp_path, "--warm-start", "run", "--out", "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "this run's own folder" in done.stderr


def test_what_a_resume_changes_is_stored(tmp_path: Path) -> None:
    slow = ["--set", "trainable_options.seconds_per_report=0.3"]
    done = search(tmp_path, "--searcher", "random", "--trials", 2, "--out", "run", *slow)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "raynas.search", "--resume", "run", "--trials", "500"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and len(rows(tmp_path / "run")) < 3:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=100)[0]
    assert process.returncode == 130, printed
    assert "of 500 trials. Go on with: python -m raynas.search --resume run" in printed
    config = resumed_run(str(tmp_path / "run"), {})
    assert (config.trials, config.searcher) == (500, "random")
    stored = storage.read_json(str(tmp_path / "run"), "config.json")
    assert stored.keys() >= {"commit", "versions", "started_at"}
