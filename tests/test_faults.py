"""Trials that a machine fails, that hang, or that raise errors, on a cluster of several nodes: real processes, really killed."""

import os
import re
import shutil
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from faulty_trials import FOLDER, HANGING, Faulty, Greedy, Slow, read_log
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory
from ray.cluster_utils import Cluster
from ray.exceptions import GetTimeoutError
from ray.tune import Tuner

from raynas import run_search
from raynas.errors import RunLost
from raynas.run.failures import Hung
from raynas.run.retries import Retries


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that trials write to, whose name the nodes know from their environment."""
    path = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(path))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        yield path


@pytest.fixture(scope="module")
def cluster(work: Path) -> Iterator[Cluster]:
    """A head that runs no trials, and two nodes for one each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "dashboard_port": 0})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False, logging_level="WARNING")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(autouse=True)
def empty(work: Path) -> None:
    shutil.rmtree(work)
    (work / HANGING).mkdir(parents=True)


def search(tmp_path: Path, **settings: Any) -> Any:
    common = {"searcher": "random", "out": str(tmp_path / "run"), "show": True, "max_epochs": 3, "concurrency": 2}
    return run_search(**common | settings)


def lines_about(name: str, printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith(f"trial {name} ")]


def overdue(work: Path, running: Collection[Any]) -> list[tuple[Any, Hung]]:
    """Those that say that they hang, instead of those that are silent for long: how long a process takes to start is unknown."""
    hanging = {path.name: path for path in (work / HANGING).iterdir()}
    found = [trial for trial in running if trial.config["arch"]["id"] in hanging]
    for trial in found:
        hanging[trial.config["arch"]["id"]].unlink()
    return [(trial, Hung("TimeoutError: it hangs")) for trial in found]


def test_what_happens_to_a_trial_is_told_apart(
    cluster: Cluster, work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retries, "overdue", lambda _, running: overdue(work, running))
    run = search(tmp_path, trainable=Faulty, trials=9)
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert "raylet" not in printed
    victims = {path.read_text(): path.name for path in work.iterdir() if path.is_file() and path.name.isalpha()}
    rows = {victims.get(row["arch_id"]): row for row in run.tables.trials.to_pylist()}
    assert len(run.tables.trials) == 9
    assert len({row["arch_id"] for row in run.tables.trials.to_pylist()}) == 9
    found = {fault: (row["status"], row["fault"], row["retries"], row["epochs"]) for fault, row in rows.items()}
    assert found == {
        None: ("finished", None, 0, 3),
        "killed": ("finished", "machine", 1, 3),
        "stuck": ("finished", "timeout", 1, 3),
        "full": ("finished", "machine", 1, 3),
        "hung": ("failed", "timeout", 1, 1),
        "own": ("failed", "architecture", 1, 1),
        "huge": ("failed", "architecture", 0, None),
    }
    assert rows["hung"]["error"] == "TimeoutError: it hangs"
    assert rows["own"]["error"] == "ValueError: no such layer"
    assert rows["huge"]["error"] == "valid_accuracy is inf, not a finite number"
    said = {fault: lines_about(row["trial_id"], printed) for fault, row in rows.items()}
    killed = "lost (machine): ActorDiedError: its process was killed, or crashed; tried again in 1 s (1 of 3)"
    assert said["killed"] == [f"trial {rows['killed']['trial_id']} {killed}"]
    stuck = "failed (timeout): TimeoutError: it hangs; tried again in 1 s (1 of 1)"
    assert said["stuck"] == [f"trial {rows['stuck']['trial_id']} {stuck}"]
    assert "lost (machine): OSError: [Errno 28] No space left on device; tried again in 1 s (1 of 6)" in said["full"][0]
    assert said[None] == []

    log = read_log(work)
    epochs = {fault: [line["epoch"] for line in log if line["arch"] == row["arch_id"]] for fault, row in rows.items()}
    assert epochs["killed"] == epochs["full"] == [1, 2, 2, 3]  # from the checkpoint
    assert epochs["hung"] == epochs["own"] == [1, 2, 2]
    assert epochs["stuck"] == [1, 2, 3]
    reports = [(row["trial_id"], row["epoch"]) for row in run.tables.reports.to_pylist()]
    assert len(reports) == len(set(reports))


def test_a_trial_whose_node_goes_away_goes_on_elsewhere(
    cluster: Cluster, work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes = {node.node_id: node for node in cluster.worker_nodes}
    gone: list[str] = []
    over = threading.Event()

    def take_away() -> None:
        while not (second := [line for line in read_log(work) if line["epoch"] == 2]):
            if over.wait(0.1):
                return
        gone.append(second[0]["node"])
        cluster.remove_node(nodes[gone[0]], allow_graceful=False)

    thread = threading.Thread(target=take_away)
    thread.start()
    run = search(tmp_path, trainable=Slow, trials=2)
    over.set()
    thread.join()
    printed = "".join(capfd.readouterr())
    assert run.counts == {"finished": 2, "stopped": 0, "failed": 0}
    assert "Traceback" not in printed
    assert "raylet" not in printed
    (lost,) = [row for row in run.tables.trials.to_pylist() if row["retries"]]
    (said,) = lines_about(lost["trial_id"], printed)
    seen = r"NodeDiedError: its node was lost|ActorUnavailableError: .* out of reach|ActorDiedError: .* was killed, or crashed"
    assert re.fullmatch(rf"trial {lost['trial_id']} lost \(machine\): ({seen}); tried again in 1 s \(1 of 3\)", said)
    log = [line for line in read_log(work) if line["arch"] == lost["arch_id"]]
    assert [(line["epoch"], line["node"] in gone) for line in log] == [(1, True), (2, True), (2, False), (3, False)]


def test_a_trial_that_ray_ends_because_memory_is_short_is_tried_again(
    cluster: Cluster, work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)
    with pytest.MonkeyPatch.context() as patch:  # for the node that starts: what the trial will take is too much, what others may is not
        patch.setenv("RAY_memory_usage_threshold", f"{(get_used_memory() + 3 * 2**30) / get_system_memory():.4f}")
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    run = search(tmp_path, trainable=Greedy, trials=2, concurrency=1)
    printed = "".join(capfd.readouterr())
    rows = {row["arch_id"]: row for row in run.tables.trials.to_pylist()}
    greedy = rows.pop((work / "greedy").read_text())
    (other,) = rows.values()
    assert [(row["status"], row["fault"]) for row in (greedy, other)] == [("finished", "machine"), ("finished", None)]
    said = f"trial {greedy['trial_id']} lost (machine): OutOfMemoryError: its node ran out of memory; tried again in 1 s (1 of 3)"
    assert lines_about(greedy["trial_id"], printed)[0] == said  # it may be hit again before the memory is free
    assert "Traceback" not in printed
    epochs = [line["epoch"] for line in read_log(work) if line["arch"] == greedy["arch_id"]]
    assert epochs[:3] == [1, 2, 2]  # from the checkpoint
    assert epochs == sorted(epochs)


def test_what_ends_tune_ends_the_run_with_one_line_and_all_written(
    cluster: Cluster, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any) -> None:
        raise GetTimeoutError("placement group")

    monkeypatch.setattr(Tuner, "fit", lose)
    with pytest.raises(RunLost, match=r"head does not answer any more .* --resume \S+/run$"):
        search(tmp_path, trainable=Faulty, trials=1)
    assert (tmp_path / "run" / "trials.parquet").exists()
    assert "placement group" in (tmp_path / "run" / "errors" / "run.txt").read_text()
